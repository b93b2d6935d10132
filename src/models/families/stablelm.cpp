// StableLM 2 and 3B. Reference: transformers models/stablelm/modeling_stablelm.py.
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

constexpr char kDefaults[] = R"({"partial_rotary_factor": 0.25})";

/// A layer norm for each head, without a bias. In a GGUF they are one tensor.
std::vector<NormSpec> HeadNorms(const std::string& base, int64_t heads, int64_t head_dim, float eps) {
  std::vector<NormSpec> norms;
  for (int64_t h = 0; h < heads; ++h) {
    norms.push_back(NormAt(fmt::format("{}.norms.{}", base, h), head_dim, eps));
    norms.back().centered = true;
    norms.back().weight.sources.push_back({.base = base, .stack = heads, .index = h, .written = false});
  }
  return norms;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& stated) {
  const ModelConfig config = stated.with_defaults(stated.has("rope_parameters") ? "{}" : kDefaults);
  RETURN_IF_ERROR(RequireActivation(config, "hidden_act", "silu"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false, {.eps = "layer_norm_eps"}));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(const int rotary, ReadRotaryDims(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, rotary));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "use_qkv_bias"));
  ASSIGN_OR_RETURN(const bool head_norms, ReadLateFlag(config, "qk_layernorm"));
  ASSIGN_OR_RETURN(const bool parallel, ReadLateFlag(config, "use_parallel_residual"));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec = DecoderOf("stablelm", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  UseLayerNorms(LayerNormBias::kBeside, spec);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    layer.parallel = parallel;
    if (parallel) layer.feed_forward_norm.reset();
    if (!head_norms) continue;
    const std::string base = fmt::format("model.layers.{}.self_attn", i);
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    gqa.q_head_norms = HeadNorms(base + ".q_layernorm", sizes.heads, attention.head_dim, sizes.eps);
    gqa.k_head_norms = HeadNorms(base + ".k_layernorm", sizes.kv_heads, attention.head_dim, sizes.eps);
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("stablelm", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.3, "qk_layernorm": true, "use_parallel_residual": true,
  "use_qkv_bias": true, "rope_theta": 10000.0, "tie_word_embeddings": false)");
}

}  // namespace

extern const Family stablelm;
constinit const Family stablelm = {"stablelm", &Spec, &Tiny};

}  // namespace shoal::families
