// OLMoE. Reference: transformers models/olmoe/modeling_olmoe.py.
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
  if (config.has("clip_qkv")) {
    return Unimplemented("{}: expected null, found {}; clipping is not built", config.where("clip_qkv"),
                         config.excerpt("clip_qkv"));
  }
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention{.norm = QkNorm::kWhole};
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes, {.width = "intermediate_size"}));
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  const std::vector<bool> sparse(static_cast<size_t>(sizes.layers), true);
  return DecoderOf("olmoe", sizes, UsualAttention(sizes, attention), UsualMoe(sizes, experts, sparse, 0));
}

std::string Tiny() {
  return TinyConfig("olmoe", R"("intermediate_size": 320, "num_key_value_heads": 16, "num_experts": 13,
  "num_experts_per_tok": 5, "norm_topk_prob": false, "clip_qkv": null, "hidden_act": "silu",
  "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_bias": false)");
}

}  // namespace

extern const Family olmoe;
constinit const Family olmoe = {"olmoe", &Spec, &Tiny};

}  // namespace shoal::families
