// DeepSeek-MoE, the first. Reference: deepseek-ai/deepseek-moe-16b-base, modeling_deepseek.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireIfPresent(config, "scoring_func", "softmax"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadDeepseekExperts(config, sizes));
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadLayersAfterDense(config, sizes.layers));
  return DecoderOf("deepseek", sizes, UsualAttention(sizes, attention),
                   UsualMoe(sizes, experts, sparse, ffn));
}

std::string Tiny() {
  return TinyConfig("deepseek",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 16,
  "n_routed_experts": 13, "n_shared_experts": 2, "num_experts_per_tok": 4, "first_k_dense_replace": 1,
  "moe_layer_freq": 1, "norm_topk_prob": false, "scoring_func": "softmax", "hidden_act": "silu",
  "rope_theta": 10000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family deepseek;
constinit const Family deepseek = {"deepseek", &Spec, &Tiny};

}  // namespace shoal::families
