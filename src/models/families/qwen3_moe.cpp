// Qwen3 Mixture of Experts. Reference: transformers models/qwen3_moe/modeling_qwen3_moe.py.
#include <algorithm>
#include <vector>

#include "base/status.h"
#include "models/family.h"
#include "models/family_parts.h"

namespace shoal::families {
namespace {

/// What the config says about experts and where they are.
struct Sparsity {
  int64_t experts = 0;
  int64_t top_k = 0;
  int64_t expert_width = 0;
  bool renormalize = false;
  int64_t step = 0;                 ///< Every step-th layer is sparse, counted from layer step - 1 ...
  std::vector<int64_t> mlp_layers;  ///< ... but not these.

  bool sparse(int64_t layer) const {
    return (layer + 1) % step == 0 &&
           std::find(mlp_layers.begin(), mlp_layers.end(), layer) == mlp_layers.end();
  }
};

absl::StatusOr<Sparsity> ReadSparsity(const ModelConfig& config, const DecoderSizes& sizes) {
  Sparsity sparsity;
  ASSIGN_OR_RETURN(sparsity.experts, config.required_int("num_experts", {1, 4096}));
  ASSIGN_OR_RETURN(sparsity.top_k, config.required_int("num_experts_per_tok", {1, sparsity.experts}));
  ASSIGN_OR_RETURN(sparsity.expert_width, config.required_int("moe_intermediate_size"));
  ASSIGN_OR_RETURN(sparsity.renormalize, config.required_bool("norm_topk_prob"));
  ASSIGN_OR_RETURN(sparsity.step, config.required_int("decoder_sparse_step"));
  if (!config.has("mlp_only_layers")) {
    return InvalidArgument("{}: expected a list of layers ([] for none), found nothing",
                           config.where("mlp_only_layers"));
  }
  ASSIGN_OR_RETURN(sparsity.mlp_layers, config.int_list("mlp_only_layers", {0, sizes.layers - 1}));
  constexpr int64_t kAllExpertsMax =
      1 << 18;  // Bounds the memory of a spec; 384 experts in 61 layers are 23,424.
  if (sparsity.experts * sizes.layers > kAllExpertsMax) {
    return InvalidArgument("{}: {} experts in {} layers exceed {} in all", config.where("num_experts"),
                           sparsity.experts, sizes.layers, kAllExpertsMax);
  }
  return sparsity;
}

MoeSpec MoeAt(const std::string& base, const Sparsity& sparsity, int64_t width) {
  MoeSpec moe;
  moe.top_k = static_cast<int>(sparsity.top_k);
  moe.router = {.weight = MatrixAt(base + ".gate", sparsity.experts, width),
                .renormalize = sparsity.renormalize};
  for (int64_t e = 0; e < sparsity.experts; ++e) {
    moe.experts.push_back(ExpertAt(base, e, sparsity.experts, width, sparsity.expert_width));
  }
  return moe;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config));
  ASSIGN_OR_RETURN(const int head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, head_dim));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ASSIGN_OR_RETURN(const bool attention_bias, ReadLateFlag(config, "attention_bias"));
  ASSIGN_OR_RETURN(const Sparsity sparsity, ReadSparsity(config, sizes));

  ModelSpec spec = DecoderAround("qwen3_moe", sizes);
  for (int64_t i = 0; i < sizes.layers; ++i) {
    const std::string base = LayerBase(i);
    GqaSpec attention = GqaAt(base + ".self_attn", sizes, head_dim, attention_bias);
    attention.q_norm = NormAt(base + ".self_attn.q_norm", head_dim, sizes.eps);
    attention.k_norm = NormAt(base + ".self_attn.k_norm", head_dim, sizes.eps);
    attention.rope = rope;
    LayerSpec layer{.mixer_norm = NormAt(base + ".input_layernorm", sizes.width, sizes.eps),
                    .mixer = std::move(attention),
                    .feed_forward_norm = NormAt(base + ".post_attention_layernorm", sizes.width, sizes.eps)};
    if (sparsity.sparse(i)) {
      layer.feed_forward = MoeAt(base + ".mlp", sparsity, sizes.width);
    } else {
      layer.feed_forward = DenseAt(base + ".mlp", sizes.width, ffn, false);
    }
    spec.layers.push_back(std::move(layer));
  }
  return spec;
}

std::string Tiny() {
  return R"({
  "architectures": ["Qwen3MoeForCausalLM"],
  "model_type": "qwen3_moe",
  "vocab_size": 331,
  "hidden_size": 320,
  "intermediate_size": 384,
  "moe_intermediate_size": 320,
  "num_hidden_layers": 7,
  "num_attention_heads": 16,
  "num_key_value_heads": 2,
  "head_dim": 20,
  "num_experts": 13,
  "num_experts_per_tok": 3,
  "norm_topk_prob": true,
  "decoder_sparse_step": 1,
  "mlp_only_layers": [2],
  "hidden_act": "silu",
  "max_position_embeddings": 1024,
  "rms_norm_eps": 1e-06,
  "rope_theta": 1000000.0,
  "rope_scaling": null,
  "tie_word_embeddings": false,
  "attention_bias": false,
  "use_sliding_window": false,
  "sliding_window": null,
  "bos_token_id": 1,
  "eos_token_id": 2
})";
}

}  // namespace

extern const Family qwen3_moe;
constinit const Family qwen3_moe = {"qwen3_moe", &Spec, &Tiny};

}  // namespace shoal::families
