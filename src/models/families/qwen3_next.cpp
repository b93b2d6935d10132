// Qwen3-Next. Reference: transformers models/qwen3_next/modeling_qwen3_next.py.
#include <string>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/families/common/family_qwen3_5.h"
#include "models/family.h"

namespace shoal::families {
namespace {

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Qwen35Parts parts, ReadQwen35(config, Qwen35Place::kNext));
  const DecoderSizes& sizes = parts.sizes;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes));
  ASSIGN_OR_RETURN(experts.weighting, ReadWeighting(config));
  ASSIGN_OR_RETURN(const int64_t shared, config.required_int("shared_expert_intermediate_size"));
  ASSIGN_OR_RETURN(const std::vector<bool> sparse, ReadSparseLayers(config, sizes.layers));
  const auto feed_forward = [&](int64_t layer, const std::string& base) -> FeedForwardSpec {
    const bool is_mtp = layer == sizes.layers;  // Which has experts.
    if (!is_mtp && !sparse[static_cast<size_t>(layer)])
      return DenseAt(base + ".mlp", sizes.width, ffn, false);
    MoeSpec moe = MoeAt(base + ".mlp", sizes.width, experts);
    moe.shared = DenseAt(base + ".mlp.shared_expert", sizes.width, shared, false);
    moe.shared_gate = MatrixAt(base + ".mlp.shared_expert_gate", 1, sizes.width);
    return moe;
  };
  return MakeQwen35("qwen3_next", parts, feed_forward);
}

std::string Tiny() {
  return TinyConfig("qwen3_next", R"("intermediate_size": 384, "num_key_value_heads": 1, "head_dim": 24,
  "hidden_act": "silu", "attention_bias": false, "full_attention_interval": 3,
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
  "linear_num_key_heads": 4, "linear_num_value_heads": 16, "partial_rotary_factor": 0.25,
  "rope_theta": 10000000.0, "rope_scaling": null, "tie_word_embeddings": false,
  "decoder_sparse_step": 1, "mlp_only_layers": [1], "moe_intermediate_size": 320, "norm_topk_prob": true,
  "shared_expert_intermediate_size": 448, "num_experts": 13, "num_experts_per_tok": 3,
  "num_nextn_predict_layers": 0)");
}

}  // namespace

extern const Family qwen3_next;
constinit const Family qwen3_next = {"qwen3_next", &Spec, &Tiny, "qwen3_5_moe"};

}  // namespace shoal::families
