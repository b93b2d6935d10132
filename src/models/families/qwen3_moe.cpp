// Qwen3 Mixture of Experts. Reference: transformers models/qwen3_moe/modeling_qwen3_moe.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.windows, ReadWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadSparseLayers(config, sizes.layers));
  return DecoderOf("qwen3_moe", sizes, UsualAttention(sizes, attention),
                   UsualMoe(sizes, experts, sparse, ffn));
}

std::string Tiny() {
  return TinyConfig("qwen3_moe", R"("intermediate_size": 384, "moe_intermediate_size": 320,
  "num_key_value_heads": 2, "head_dim": 20, "num_experts": 13, "num_experts_per_tok": 3,
  "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [2], "hidden_act": "silu",
  "rope_theta": 1000000.0, "rope_scaling": null, "tie_word_embeddings": false,
  "attention_bias": false, "use_sliding_window": false, "sliding_window": null)");
}

}  // namespace

extern const Family qwen3_moe;
constinit const Family qwen3_moe = {"qwen3_moe", &Spec, &Tiny};

}  // namespace shoal::families
