// Gemma 3, text only. Reference: transformers models/gemma3/modeling_gemma3.py.
#include <cmath>
#include <optional>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_gemma.h"
#include "models/family.h"

namespace shoal::families {
namespace {

constexpr int64_t kUsualPattern = 6;  // Of configs without layer_types: every sixth layer sees everything.

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

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_activation", "gelu_pytorch_tanh"));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionSettings attention{.norm = QkNorm::kPerHead};
  ASSIGN_OR_RETURN(attention.windows, Windows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  RopeSpec local;
  RETURN_IF_ERROR(ReadGemmaRopes(config, attention.head_dim, attention.rope, local));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const double scalar, config.required_number("query_pre_attn_scalar", {1e-6, 1e6}));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));

  ModelSpec spec = DecoderOf("gemma3_text", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  ASSIGN_OR_RETURN(spec.final_logit_softcap, ReadSoftcap(config, "final_logit_softcapping"));
  ASSIGN_OR_RETURN(const float score_softcap, ReadSoftcap(config, "attn_logit_softcapping"));
  MakeGemma(sizes, {.zero_centered = true, .of_outputs = true}, spec);
  for (LayerSpec& layer : spec.layers) {
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    gqa.scale = 1.0 / std::sqrt(scalar);
    gqa.score_softcap = score_softcap;
    if (gqa.window) gqa.rope = local;
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
