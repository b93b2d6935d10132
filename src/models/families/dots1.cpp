// dots.llm1. Reference: transformers models/dots1/modeling_dots1.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "topk_method", "noaux_tc"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadDeepseekV3Experts(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadLayersAfterDense(config, sizes.layers));
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    if (!sparse[static_cast<size_t>(layer)]) return DenseAt(base + ".mlp", sizes.width, ffn, false);
    return MoeAt(base + ".mlp", sizes.width, experts, {.stacks = ".experts"});
  };
  return DecoderOf("dots1", sizes, UsualAttention(sizes, attention), feed_forward);
}

std::string Tiny() {
  return TinyConfig("dots1",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 2,
  "head_dim": 28, "attention_bias": false, "n_routed_experts": 13, "n_shared_experts": 2,
  "num_experts_per_tok": 3, "first_k_dense_replace": 1, "moe_layer_freq": 1, "norm_topk_prob": true,
  "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1, "scoring_func": "noaux_tc",
  "topk_method": "noaux_tc", "hidden_act": "silu", "rope_theta": 10000000.0, "sliding_window": null,
  "use_sliding_window": false, "max_window_layers": 7, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family dots1;
constinit const Family dots1 = {"dots1", &Spec, &Tiny, "glm4_moe"};

}  // namespace shoal::families
