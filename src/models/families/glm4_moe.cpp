// GLM-4.5 and 4.6. Reference: transformers models/glm4_moe/modeling_glm4_moe.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  RETURN_IF_ERROR(RefuseWindows(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, rotary));
  ASSIGN_OR_RETURN(attention.qkv_bias, config.required_bool("attention_bias"));
  ASSIGN_OR_RETURN(const bool qk_norm, config.required_bool("use_qk_norm"));
  if (qk_norm) attention.norm = QkNorm::kPerHead;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadDeepseekV3Experts(config, sizes));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadLayersAfterDense(config, sizes.layers));
  const MakeMixer mixer = UsualAttention(sizes, attention);
  ModelSpec spec = DecoderOf("glm4_moe", sizes, mixer, UsualMoe(sizes, experts, sparse, ffn));
  RETURN_IF_ERROR(AddMtp(config, sizes, mixer, MoeEverywhere(sizes, experts), spec));
  return spec;
}

std::string Tiny() {
  return TinyConfig("glm4_moe",
                    R"("intermediate_size": 384, "moe_intermediate_size": 320, "num_key_value_heads": 2,
  "head_dim": 20, "partial_rotary_factor": 0.5, "attention_bias": true, "use_qk_norm": true,
  "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3, "first_k_dense_replace": 2,
  "norm_topk_prob": true, "routed_scaling_factor": 2.5, "n_group": 1, "topk_group": 1,
  "hidden_act": "silu", "rope_theta": 1000000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family glm4_moe;
constinit const Family glm4_moe = {"glm4_moe", &Spec, &Tiny};

}  // namespace shoal::families
