// Qwen1.5 and Qwen2 Mixture of Experts. Reference: transformers models/qwen2_moe/modeling_qwen2_moe.py.
#include <optional>
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
  ASSIGN_OR_RETURN(AttentionSettings attention, ReadWindowedAttention(config, sizes));
  ASSIGN_OR_RETURN(const std::optional<bool> qkv_bias, config.optional_bool("qkv_bias"));
  attention.qkv_bias = qkv_bias.value_or(true);  // The key came after the models, which all have biases.
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("shared_expert_intermediate_size"));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadSparseLayers(config, sizes.layers));
  return DecoderOf("qwen2_moe", sizes, UsualAttention(sizes, attention),
                   [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
                     if (!sparse[static_cast<size_t>(layer)])
                       return DenseAt(base + ".mlp", sizes.width, ffn, false);
                     MoeSpec moe = MoeAt(base + ".mlp", sizes.width, experts);
                     moe.shared = DenseAt(base + ".mlp.shared_expert", sizes.width, shared, false);
                     moe.shared_gate = MatrixAt(base + ".mlp.shared_expert_gate", 1, sizes.width);
                     return moe;
                   });
}

std::string Tiny() {
  return TinyConfig("qwen2_moe", R"("intermediate_size": 384, "moe_intermediate_size": 320,
  "shared_expert_intermediate_size": 448, "num_key_value_heads": 4, "num_experts": 13,
  "num_experts_per_tok": 4, "norm_topk_prob": false, "decoder_sparse_step": 2, "mlp_only_layers": [],
  "hidden_act": "silu", "rope_theta": 1000000.0, "tie_word_embeddings": false,
  "use_sliding_window": false)");
}

}  // namespace

extern const Family qwen2_moe;
constinit const Family qwen2_moe = {"qwen2_moe", &Spec, &Tiny};

}  // namespace shoal::families
