// Qwen3-VL Mixture of Experts with a tower for images, of which the text model runs. Reference: transformers
// models/qwen3_vl_moe/modeling_qwen3_vl_moe.py.
#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/families/common/nested_text_config.h"
#include "models/family.h"

namespace shoal::families {

extern const Family qwen3_moe;

namespace {

/// Qwen3's, with the experts as two transposed stacks; their weights are renormalized whatever norm_topk_prob says.
absl::StatusOr<ModelSpec> TextSpec(const ModelConfig& text) {
  ASSIGN_OR_RETURN(ModelSpec spec, qwen3_moe.spec(text));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    auto* moe = std::get_if<MoeSpec>(&spec.layers[i].feed_forward);
    if (moe == nullptr) continue;
    FuseTransposedExperts(fmt::format("model.layers.{}.mlp", i), spec.width, *moe);
    moe->router.weighting = RouteWeights::kRenormalized;
  }
  return spec;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  constexpr char kDefaults[] = R"({"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": true,
      "tie_word_embeddings": false})";
  const NestedText texts[] = {{"qwen3_vl_moe_text", &TextSpec, kDefaults}};
  return NestedTextModel(config, texts);
}

std::string Tiny() {
  return NestTextConfig("qwen3_vl_moe", TinyConfig("qwen3_vl_moe_text", R"("intermediate_size": 384,
  "moe_intermediate_size": 320, "num_key_value_heads": 2, "head_dim": 20, "num_experts": 13,
  "num_experts_per_tok": 3, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [2],
  "hidden_act": "silu", "rope_theta": 5000000.0, "attention_bias": false, "tie_word_embeddings": false,
  "rope_scaling": {"mrope_interleaved": true, "mrope_section": [4, 3, 3], "rope_type": "default"})"));
}

}  // namespace

extern const Family qwen3_vl_moe;
constinit const Family qwen3_vl_moe = {"qwen3_vl_moe", &Spec, &Tiny, "qwen3_moe"};

}  // namespace shoal::families
