// Hunyuan with experts. Reference: transformers models/hunyuan_v1_moe/modeling_hunyuan_v1_moe.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_hunyuan.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// A number for all layers, or a list of one for each, which here must be the same.
absl::StatusOr<int64_t> ReadOfAllLayers(const ModelConfig& config, const char* key, int64_t usual) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> each, config.int_list(key, kPositive));
  for (const int64_t value : each) {
    if (value == each.front()) continue;
    return Unimplemented("{}: expected the same in all layers, found {}", config.where(key),
                         config.excerpt(key));
  }
  return each.empty() ? usual : each.front();
}

/// The reference gives experts and the shared one the width intermediate_size, whatever these say.
absl::Status RefuseOtherWidths(const ModelConfig& config, int64_t width) {
  ASSIGN_OR_RETURN(const int64_t of_experts, ReadOfAllLayers(config, "moe_intermediate_size", width));
  if (of_experts != width) {
    return Unimplemented("{}: expected intermediate_size = {}, found {}",
                         config.where("moe_intermediate_size"), width, of_experts);
  }
  ASSIGN_OR_RETURN(const int64_t shared, ReadOfAllLayers(config, "num_shared_expert", 1));
  if (shared == 1) return absl::OkStatus();
  return Unimplemented("{}: expected 1, found {}", config.where("num_shared_expert"), shared);
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireFlag(config, "mlp_bias", false));
  RETURN_IF_ERROR(RequireFlag(config, "use_mixed_mlp_moe", true));
  RETURN_IF_ERROR(RequireFlag(config, "norm_topk_prob", true));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  ASSIGN_OR_RETURN(const MakeMixer attention, ReadHunyuanAttention(config, sizes));
  ASSIGN_OR_RETURN(const std::optional<int64_t> dense,
                   config.optional_int("moe_layer_num_skipped", kAnyCount));
  if (dense.value_or(0) != 0) {
    return Unimplemented("{}: expected 0, found {}", config.where("moe_layer_num_skipped"), *dense);
  }
  MoeSettings experts{.weighting = RouteWeights::kRenormalized};
  ASSIGN_OR_RETURN(experts.width, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(experts.experts, config.required_int("num_experts", {1, 4096}));
  ASSIGN_OR_RETURN(experts.top_k, ReadOfAllLayers(config, "moe_topk", 1));
  if (experts.top_k > experts.experts) {
    return InvalidArgument("{}: expected at most {}, found {}", config.where("moe_topk"), experts.experts,
                           experts.top_k);
  }
  RETURN_IF_ERROR(RefuseOtherWidths(config, experts.width));
  return DecoderOf("hunyuan_v1_moe", sizes, attention, [&](int64_t, const std::string& base) {
    MoeSpec moe = MoeAt(base + ".mlp", sizes.width, experts);
    moe.router.linear = LinearAt(base + ".mlp.gate.wg", experts.experts, sizes.width, false);
    moe.shared = DenseAt(base + ".mlp.shared_mlp", sizes.width, experts.width, false);
    return moe;
  });
}

std::string Tiny() {
  return TinyConfig("hunyuan_v1_moe", R"("intermediate_size": 320, "num_key_value_heads": 2, "head_dim": 28,
  "num_experts": 13, "moe_topk": [3, 3, 3, 3, 3, 3, 3], "num_shared_expert": [1, 1, 1, 1, 1, 1, 1],
  "moe_intermediate_size": 320, "use_mixed_mlp_moe": true, "moe_layer_num_skipped": 0,
  "norm_topk_prob": true, "hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false,
  "use_qk_norm": true, "use_cla": false, "tie_word_embeddings": true,
  "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0})");
}

}  // namespace

extern const Family hunyuan_v1_moe;
constinit const Family hunyuan_v1_moe = {"hunyuan_v1_moe", &Spec, &Tiny};

}  // namespace shoal::families
