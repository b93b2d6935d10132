// GLM-5 and later: DeepSeek-V3.2 with layers that attend to what a layer before them picked. Reference: transformers
// models/glm_moe_dsa/modeling_glm_moe_dsa.py.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_mla.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// index_topk_pattern, "FSS" or ["full", "shared", "shared"]; nothing: there is none.
absl::StatusOr<std::vector<std::string>> ReadPattern(const ModelConfig& config) {
  const auto letters = config.optional_string("index_topk_pattern");
  if (!letters.ok()) return config.string_list("index_topk_pattern");
  std::vector<std::string> types;
  for (const char letter : letters->value_or("")) {
    types.emplace_back(letter == 'F' ? "full" : letter == 'S' ? "shared" : std::string(1, letter));
  }
  return types;
}

/// index_topk_freq and index_skip_topk_offset: the first layers pick, then one of so many.
absl::StatusOr<std::vector<std::string>> ReadSchedule(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> every, config.optional_int("index_topk_freq", kAnyCount));
  ASSIGN_OR_RETURN(const std::optional<int64_t> offset,
                   config.optional_int("index_skip_topk_offset", kAnyCount));
  std::vector<std::string> types;
  for (int64_t i = 0; i < layers; ++i) {
    const bool full =
        std::max<int64_t>(i - offset.value_or(2) + 1, 0) % std::max<int64_t>(every.value_or(1), 1) == 0;
    types.emplace_back(full ? "full" : "shared");
  }
  return types;
}

/// Which layers pick; the others take what the last of these picked.
absl::StatusOr<std::vector<bool>> ReadPickingLayers(const ModelConfig& config, int64_t layers) {
  const char* key = "indexer_types";
  ASSIGN_OR_RETURN(std::vector<std::string> types, config.string_list(key));
  if (types.empty()) {
    key = "index_topk_pattern";
    ASSIGN_OR_RETURN(types, ReadPattern(config));
  }
  if (types.empty()) {
    key = "index_topk_freq";
    ASSIGN_OR_RETURN(types, ReadSchedule(config, layers));
  }
  const auto known = [](const std::string& type) { return type == "full" || type == "shared"; };
  if (std::ssize(types) != layers || types[0] != "full" || !std::ranges::all_of(types, known)) {
    return InvalidArgument(
        "{}: expected \"full\" or \"shared\" for each of {} layers, \"full\" for the first, found {}",
        config.where(key), layers, config.excerpt(key));
  }
  std::vector<bool> picking;
  for (const std::string& type : types) picking.push_back(type == "full");
  return picking;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireFlag(config, "indexer_rope_interleave", true));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const std::vector<bool> picking, ReadPickingLayers(config, sizes.layers));
  ASSIGN_OR_RETURN(const MakePicks own, ReadTopPicks(config, RopePairing::kInterleaved));
  const auto picks_at = [&](int64_t layer) {  // The layer of multi-token prediction picks.
    return layer >= sizes.layers || picking[static_cast<size_t>(layer)];
  };
  ASSIGN_OR_RETURN(ModelSpec spec,
                   ReadDeepseekV3(config, "glm_moe_dsa", [&](int64_t layer, const std::string& base) {
                     TopPicks picks = own(layer, base);
                     if (!picks_at(layer)) picks.indexer.reset();
                     picks.carried = !picks_at(layer) || !picks_at(layer + 1);
                     return picks;
                   }));
  const bool shares = std::ranges::find(picking, false) != picking.end();
  if (shares) spec.carried_picks = std::get<MlaSpec>(spec.layers[0].mixer).picks->count;
  constexpr int64_t kExactInF32 = int64_t{1} << 24;
  if (shares && spec.max_positions > kExactInF32) {
    return Unimplemented("{}: {} positions exceed {}, the most that rows carry exactly",
                         config.where("max_position_embeddings"), spec.max_positions, kExactInF32);
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("glm_moe_dsa",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "q_lora_rank": 320, "kv_lora_rank": 320, "qk_nope_head_dim": 64, "qk_rope_head_dim": 20,
  "v_head_dim": 28, "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
  "routed_scaling_factor": 2.5, "hidden_act": "silu",
  "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "indexer_rope_interleave": true,
  "index_n_heads": 11, "index_head_dim": 36, "index_topk": 14, "index_topk_freq": 3,
  "index_skip_topk_offset": 2, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family glm_moe_dsa;
constinit const Family glm_moe_dsa = {"glm_moe_dsa", &Spec, &Tiny};

}  // namespace shoal::families
