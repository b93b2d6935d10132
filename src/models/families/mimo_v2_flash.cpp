// MiMo-V2-Flash. Reference: transformers models/mimo_v2_flash/modeling_mimo_v2_flash.py.
#include <optional>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Which layers have a window: hybrid_layer_pattern says 1 of them; without it all but the first and every sixth.
absl::StatusOr<std::vector<bool>> ReadWindowed(const ModelConfig& config, int64_t layers) {
  std::vector<bool> windowed;
  ASSIGN_OR_RETURN(const std::vector<std::string> types, config.string_list("layer_types"));
  for (const std::string& type : types) windowed.push_back(type == "sliding_attention");
  ASSIGN_OR_RETURN(const std::vector<int64_t> pattern, config.int_list("hybrid_layer_pattern", {0, 1}));
  for (size_t i = 0; types.empty() && i < pattern.size(); ++i) windowed.push_back(pattern[i] == 1);
  for (int64_t i = 0; types.empty() && pattern.empty() && i < layers; ++i) {
    windowed.push_back(i > 0 && (i + 1) % 6 != 0);
  }
  if (std::ssize(windowed) == layers) return windowed;
  return InvalidArgument("{}: expected one for each of {} layers, found {}",
                         config.where(types.empty() ? "hybrid_layer_pattern" : "layer_types"), layers,
                         windowed.size());
}

/// moe_layer_freq: 1 for each layer with experts; without it all but the first have them.
absl::StatusOr<std::vector<bool>> ReadSparse(const ModelConfig& config, int64_t layers) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> stated, config.int_list("moe_layer_freq", {0, 1}));
  std::vector<bool> sparse(static_cast<size_t>(layers), true);
  sparse[0] = false;
  if (stated.empty()) return sparse;
  if (std::ssize(stated) != layers) {
    return InvalidArgument("{}: expected one for each of {} layers, found {}", config.where("moe_layer_freq"),
                           layers, stated.size());
  }
  for (size_t i = 0; i < sparse.size(); ++i) sparse[i] = stated[i] == 1;
  return sparse;
}

/// The reference has heads of one size in all layers, and twice as many for keys and values where there is a window.
absl::Status RefuseOtherHeads(const ModelConfig& config, const DecoderSizes& sizes) {
  struct Expected {
    const char* key;
    const char* as;
    int64_t times;
  };
  for (const auto& [key, as, times] :
       {Expected{"swa_num_attention_heads", "num_attention_heads", 1},
        Expected{"swa_num_key_value_heads", "num_key_value_heads", 2},
        Expected{"swa_head_dim", "head_dim", 1}, Expected{"swa_v_head_dim", "v_head_dim", 1}}) {
    ASSIGN_OR_RETURN(const std::optional<int64_t> found, config.optional_int(key));
    ASSIGN_OR_RETURN(const int64_t other, config.required_int(as));
    if (found.value_or(times * other) == times * other) continue;
    return Unimplemented("{}: expected {} times {} = {}, found {}", config.where(key), times, as,
                         times * other, *found);
  }
  if (sizes.heads % (2 * sizes.kv_heads) == 0) return absl::OkStatus();
  return InvalidArgument("{}: expected a multiple of twice num_key_value_heads = {}, found {}",
                         config.where("num_attention_heads"), sizes.kv_heads, sizes.heads);
}

/// Of layers that see everything, and of those with a window, which have a theta of their own and sinks.
struct Attentions {
  AttentionSettings full, windowed;
  int64_t window = 0;
  int value_dim = 0;
  float value_scale = 1;
};

absl::StatusOr<Attentions> ReadAttentions(const ModelConfig& config) {
  Attentions both;
  ASSIGN_OR_RETURN(both.full.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const int64_t value_dim, config.required_int("v_head_dim", {1, 1 << 16}));
  both.value_dim = static_cast<int>(value_dim);
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(config, both.full.head_dim));
  ASSIGN_OR_RETURN(both.full.rope, ReadRope(config, rotary));
  ASSIGN_OR_RETURN(both.full.qkv_bias, ReadLateFlag(config, "attention_bias"));
  both.windowed = both.full;
  ASSIGN_OR_RETURN(both.windowed.rope.theta, config.required_number("swa_rope_theta", {1.0, 1e15}));
  // sliding_window_size counts the positions before a row, sliding_window those that it sees.
  ASSIGN_OR_RETURN(const std::optional<int64_t> before, config.optional_int("sliding_window_size"));
  if (before) {
    both.window = *before + 1;
  } else {
    ASSIGN_OR_RETURN(both.window, config.required_int("sliding_window"));
  }
  ASSIGN_OR_RETURN(const std::optional<double> scale,
                   config.optional_number("attention_value_scale", {1e-6, 1e6}));
  both.value_scale = static_cast<float>(scale.value_or(1.0));
  return both;
}

GqaSpec AttentionAt(const std::string& base, DecoderSizes sizes, const Attentions& both, bool window) {
  if (window) sizes.kv_heads *= 2;
  const AttentionSettings& parts = window ? both.windowed : both.full;
  GqaSpec gqa = GqaAt(base, sizes, parts);
  const int64_t values = int64_t{sizes.kv_heads} * both.value_dim;
  gqa.value_dim = both.value_dim;
  gqa.value_scale = both.value_scale;
  gqa.v = LinearAt(base + ".v_proj", values, sizes.width, parts.qkv_bias);
  gqa.o = LinearAt(base + ".o_proj", sizes.width, int64_t{sizes.heads} * both.value_dim, false);
  if (!window) return gqa;
  gqa.window = both.window;
  gqa.sinks = WeightRef{.shape = {sizes.heads}, .sources = {{.base = base, .suffix = "attention_sink_bias"}}};
  return gqa;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "sigmoid"));
  RETURN_IF_ERROR(RequireIfPresent(config, "topk_method", "noaux_tc"));
  RETURN_IF_ERROR(RequireFlag(config, "add_swa_attention_sink_bias", true));
  RETURN_IF_ERROR(RequireFlag(config, "add_full_attention_sink_bias", false));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false, {.eps = "layernorm_epsilon"}));
  RETURN_IF_ERROR(RefuseOtherHeads(config, sizes));
  ASSIGN_OR_RETURN(const Attentions both, ReadAttentions(config));
  ASSIGN_OR_RETURN(const std::vector<bool> windowed, ReadWindowed(config, sizes.layers));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadSparse(config, sizes.layers));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadDeepseekV3Experts(config, sizes));
  const auto mixer = [&](int64_t layer, const std::string& base) {
    return AttentionAt(base + ".self_attn", sizes, both, windowed[static_cast<size_t>(layer)]);
  };
  ModelSpec spec = DecoderOf("mimo_v2_flash", sizes, mixer, UsualMoe(sizes, experts, sparse, ffn));
  spec.ignored_tensors.emplace_back("model.mtp.", "unused heads for multi-token prediction");
  return spec;
}

std::string Tiny() {
  return TinyConfig("mimo_v2_flash",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 1,
  "head_dim": 28, "v_head_dim": 20, "swa_num_key_value_heads": 2, "layernorm_epsilon": 1e-5,
  "hybrid_layer_pattern": [0, 1, 1, 0, 1, 1, 0], "moe_layer_freq": [0, 1, 1, 1, 1, 1, 1],
  "n_routed_experts": 13, "n_shared_experts": null, "num_experts_per_tok": 3, "n_group": 1, "topk_group": 1,
  "norm_topk_prob": true, "routed_scaling_factor": null, "scoring_func": "sigmoid",
  "topk_method": "noaux_tc", "sliding_window": 32, "sliding_window_size": 32, "rope_theta": 5000000,
  "swa_rope_theta": 10000, "partial_rotary_factor": 0.43, "attention_bias": false,
  "attention_value_scale": 0.707, "add_swa_attention_sink_bias": true,
  "add_full_attention_sink_bias": false, "hidden_act": "silu", "tie_word_embeddings": false)");
}

}  // namespace

extern const Family mimo_v2_flash;
constinit const Family mimo_v2_flash = {"mimo_v2_flash", &Spec, &Tiny};

}  // namespace shoal::families
