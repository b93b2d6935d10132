// OLMo 3. Reference: transformers models/olmo3/modeling_olmo3.py.
#include <optional>
#include <vector>

#include "base/status.h"
#include "models/families/common/family_common.h"
#include "models/family.h"

namespace shoal::families {
namespace {

/// Without layer_types every fourth layer sees everything.
absl::StatusOr<std::vector<std::optional<int64_t>>> ThreeOfFour(const ModelConfig& config, int64_t layers) {
  if (config.has("layer_types")) return ReadWindows(config, layers);
  ASSIGN_OR_RETURN(const int64_t window, config.required_int("sliding_window"));
  std::vector<std::optional<int64_t>> windows(static_cast<size_t>(layers));
  for (int64_t i = 0; i < layers; ++i) {
    if ((i + 1) % 4 != 0) windows[static_cast<size_t>(i)] = window;
  }
  return windows;
}

/// A scaling is of layers that see everything; those with a window have plain rope, by the same theta where the config
/// has no object for each.
absl::Status ReadRopes(const ModelConfig& config, int head_dim, RopeSpec& full, RopeSpec& windowed) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> ropes, config.optional_object("rope_parameters"));
  if (ropes && ropes->has("full_attention")) {
    ASSIGN_OR_RETURN(full, ReadRopeOfType(config, "full_attention", head_dim));
    ASSIGN_OR_RETURN(windowed, ReadRopeOfType(config, "sliding_attention", head_dim));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(full, ReadRope(config, head_dim));
  windowed = {.theta = full.theta, .dims = head_dim};
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> Spec(const ModelConfig& config) {
  RETURN_IF_ERROR(RefuseUnbuiltFeatures(config));
  ASSIGN_OR_RETURN(const DecoderSizes sizes, ReadDecoderSizes(config, false));
  AttentionSettings attention{.norm = QkNorm::kWhole};
  ASSIGN_OR_RETURN(attention.windows, ThreeOfFour(config, sizes.layers));
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  RopeSpec windowed;
  RETURN_IF_ERROR(ReadRopes(config, attention.head_dim, attention.rope, windowed));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  ASSIGN_OR_RETURN(const int64_t ffn, config.required_int("intermediate_size"));
  ModelSpec spec = DecoderOf("olmo3", sizes, UsualAttention(sizes, attention), UsualMlp(sizes, ffn));
  NormOutputsOnly(sizes, spec);
  for (LayerSpec& layer : spec.layers) {
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    if (gqa.window) gqa.rope = windowed;
  }
  return spec;
}

std::string Tiny() {
  return TinyConfig("olmo3", R"("intermediate_size": 384, "num_key_value_heads": 2, "hidden_act": "silu",
  "head_dim": 28, "rope_theta": 500000.0, "sliding_window": 33, "tie_word_embeddings": false,
  "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
    "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2})");
}

}  // namespace

extern const Family olmo3;
constinit const Family olmo3 = {"olmo3", &Spec, &Tiny, "olmo2"};

}  // namespace shoal::families
