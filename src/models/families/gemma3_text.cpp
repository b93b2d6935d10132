// Gemma 3, text only. Reference: transformers models/gemma3/modeling_gemma3.py.
#include <cmath>
#include <optional>
#include <vector>

#include "base/status.h"
#include "models/family.h"
#include "models/family_parts.h"
#include "numeric/dtype.h"

namespace shoal::families {
namespace {

constexpr int64_t kUsualPattern = 6;  // Of configs without layer_types: every sixth layer sees everything.

absl::Status RefuseSoftcaps(const ModelConfig& config) {
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (!config.has(key)) continue;
    return Unimplemented("{}: expected null, found {}; soft caps are not built", config.where(key),
                         config.excerpt(key));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::optional<int64_t>>> Windows(const ModelConfig& config, int64_t layers) {
  if (config.has("layer_types")) return ReadWindows(config, layers);
  ASSIGN_OR_RETURN(const int64_t window, config.required_int("sliding_window"));
  ASSIGN_OR_RETURN(const std::optional<int64_t> pattern, config.optional_int("sliding_window_pattern"));
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) {
    if ((i + 1) % pattern.value_or(kUsualPattern) != 0) windows[static_cast<size_t>(i)] = window;
  }
  return windows;
}

/// sqrt(D) in the precision of the reference's weights.
float EmbeddingScale(int64_t width) {
  return BF16ToF32(F32ToBF16(static_cast<float>(std::sqrt(static_cast<double>(width)))));
}

/// Norms are stored as w of 1 + w.
NormSpec ZeroCentred(NormSpec norm) {
  for (WeightSource& source : norm.weight.sources) source.offset = 1;
  return norm;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_activation", "gelu_pytorch_tanh"));
  RETURN_IF_ERROR(RefuseSoftcaps(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionParts attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.windows, Windows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  RopeSpec local{.dims = attention.head_dim};
  ASSIGN_OR_RETURN(local.theta, config.required_number("rope_local_base_freq", {1.0, 1e15}));
  ASSIGN_OR_RETURN(const double scalar, config.required_number("query_pre_attn_scalar", {1e-6, 1e6}));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));

  ModelSpec spec = DecoderOf("gemma3_text", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  spec.embedding_scale = EmbeddingScale(sizes.width);
  spec.final_norm = ZeroCentred(spec.final_norm);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto norm = [&](const char* name) {
      return ZeroCentred(NormAt(fmt::format("model.layers.{}.{}", i, name), sizes.width, sizes.eps));
    };
    LayerSpec& layer = spec.layers[i];
    layer.mixer_norm = norm("input_layernorm");
    layer.mixer_out_norm = norm("post_attention_layernorm");
    layer.feed_forward_norm = norm("pre_feedforward_layernorm");
    layer.feed_forward_out_norm = norm("post_feedforward_layernorm");
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    gqa.q_norm = ZeroCentred(*gqa.q_norm);
    gqa.k_norm = ZeroCentred(*gqa.k_norm);
    gqa.scale = 1.0 / std::sqrt(scalar);
    if (gqa.window) gqa.rope = local;
    std::get<DenseSpec>(layer.feed_forward).gating = Gating::kGelu;
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("gemma3_text", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 40, "rope_theta": 1000000.0,
  "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
  "sliding_window": 33, "sliding_window_pattern": 3, "attn_logit_softcapping": null,
  "final_logit_softcapping": null, "tie_word_embeddings": true)");
}

}  // namespace

extern const Family gemma3_text;
constinit const Family gemma3_text = {"gemma3_text", &Spec, &Tiny};

}  // namespace shoal::families
