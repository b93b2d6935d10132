// Solar Open. Reference: transformers models/solar_open/modeling_solar_open.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  RETURN_IF_ERROR(RefuseWindows(config));
  RETURN_IF_ERROR(RequireFlag(config, "use_qk_norm", false));
  ASSIGN_OR_RETURN(const std::optional<int64_t> dense,
                   config.optional_int("first_k_dense_replace", kAnyCount));
  if (dense.value_or(0) != 0) {
    return Unimplemented("{}: expected 0, found {}; the reference has experts in every layer",
                         config.where("first_k_dense_replace"), *dense);
  }
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  ASSIGN_OR_RETURN(const MoeSettings experts, ReadDeepseekV3Experts(config, sizes));
  return DecoderOf("solar_open", sizes, UsualAttention(sizes, attention), MoeEverywhere(sizes, experts));
}

std::string Tiny() {
  return TinyConfig("solar_open",
                    R"("moe_intermediate_size": 320, "num_key_value_heads": 2, "head_dim": 28,
  "attention_bias": false, "n_routed_experts": 13, "n_shared_experts": 1, "num_experts_per_tok": 3,
  "first_k_dense_replace": 0, "norm_topk_prob": true, "routed_scaling_factor": 1.5, "n_group": 1,
  "topk_group": 1, "hidden_act": "silu", "rope_theta": 1000000.0, "partial_rotary_factor": 1.0,
  "use_qk_norm": false, "rope_scaling": {"type": "yarn", "factor": 2.0,
    "original_max_position_embeddings": 64}, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family solar_open;
constinit const Family solar_open = {"solar_open", &Spec, &Tiny, "glm4_moe"};

}  // namespace shoal::families
