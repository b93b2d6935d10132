#include "models/families/common/family_granite.h"

#include <optional>

#include "base/status.h"

namespace shoal {

absl::StatusOr<AttentionSettings> ReadGraniteAttention(const ModelConfig& config, const DecoderSizes& sizes) {
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  return attention;
}

absl::Status ApplyGraniteMultipliers(const ModelConfig& config, ModelSpec& spec) {
  const auto factor = [&config](const char* key) -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const std::optional<double> stated, config.optional_number(key, {1e-6, 1e6}));
    return stated.value_or(1.0);
  };
  ASSIGN_OR_RETURN(const double embedding, factor("embedding_multiplier"));
  ASSIGN_OR_RETURN(const double residual, factor("residual_multiplier"));
  ASSIGN_OR_RETURN(const double scores, factor("attention_multiplier"));
  ASSIGN_OR_RETURN(const double divisor, factor("logits_scaling"));
  spec.embedding_scale = static_cast<float>(embedding);
  spec.logits_scale = static_cast<float>(1.0 / divisor);
  for (LayerSpec& layer : spec.layers) {
    layer.residual_scale = static_cast<float>(residual);
    if (auto* gqa = std::get_if<GqaSpec>(&layer.mixer)) gqa->scale = scores;
  }
  return absl::OkStatus();
}

}  // namespace shoal
