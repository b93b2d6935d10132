// Gemma 2. Reference: transformers models/gemma2/modeling_gemma2.py.
#include <cmath>
#include <optional>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_gemma.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Without layer_types every other layer has the window, the first among them.
absl::StatusOr<std::vector<std::optional<int64_t>>> AlternateWindows(const ModelConfig& config,
                                                                     int64_t layers) {
  if (config.has("layer_types")) return ReadWindows(config, layers);
  ASSIGN_OR_RETURN(const int64_t window, config.required_int("sliding_window"));
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  for (size_t i = 0; i < windows.size(); i += 2) windows[i] = window;
  return windows;
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RequireActivation(config, "hidden_activation", "gelu_pytorch_tanh"));
  RETURN_IF_ERROR(RefuseBidirectional(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, true));
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.windows, AlternateWindows(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDim(config));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const double scalar, config.required_number("query_pre_attn_scalar", {1e-6, 1e6}));
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec = DecoderOf("gemma2", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  ASSIGN_OR_RETURN(spec.final_logit_softcap, ReadSoftcap(config, "final_logit_softcapping"));
  ASSIGN_OR_RETURN(const float score_softcap, ReadSoftcap(config, "attn_logit_softcapping"));
  MakeGemma(sizes, {.zero_centered = true, .of_outputs = true}, spec);
  for (LayerSpec& layer : spec.layers) {
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    gqa.scale = 1.0 / std::sqrt(scalar);
    gqa.score_softcap = score_softcap;
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("gemma2", R"("intermediate_size": 384, "num_key_value_heads": 2, "head_dim": 28,
  "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 40, "rope_theta": 10000.0,
  "sliding_window": 33, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0)");
}

}  // namespace

extern const Family gemma2;
constinit const Family gemma2 = {"gemma2", &Spec, &Tiny};

}  // namespace shoal::families
