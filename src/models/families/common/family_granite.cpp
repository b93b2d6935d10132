#include "models/families/common/family_granite.h"

#include "base/status.h"
#include "models/families/common/family_moe.h"

namespace shoal {

absl::StatusOr<AttentionSettings> ReadGraniteAttention(const ModelConfig& config, const DecoderSizes& sizes) {
  AttentionSettings attention;
  ASSIGN_OR_RETURN(attention.head_dim, ReadHeadDimOrShare(config, sizes));
  ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));
  ASSIGN_OR_RETURN(attention.qkv_bias, ReadLateFlag(config, "attention_bias"));
  attention.o_bias = attention.qkv_bias;
  return attention;
}

absl::StatusOr<MoeSettings> ReadGraniteExperts(const ModelConfig& config, const DecoderSizes& sizes) {
  ASSIGN_OR_RETURN(MoeSettings experts, ReadExperts(config, sizes,
                                                    {.experts = "num_local_experts",
                                                     .top_k = "num_experts_per_tok",
                                                     .width = "intermediate_size"}));
  experts.scores = RouteScores::kLogits;
  experts.weighting = RouteWeights::kSoftmax;
  return experts;
}

MoeSpec GraniteExpertsAt(const std::string& base, int64_t width, const MoeSettings& parts) {
  MoeSpec moe = MoeAt(base, width, parts);
  moe.router.linear = LinearAt(base + ".router.layer", parts.experts, width, false);
  for (int64_t e = 0; e < parts.experts; ++e) {
    DenseSpec& expert = moe.experts[static_cast<size_t>(e)];
    const auto stacked = [&](LinearSpec& linear, const char* name) -> WeightSource& {
      return linear.weight.sources[0] = {
                 .base = base + name, .stack = parts.experts, .index = e, .written = false};
    };
    const auto half = [&](LinearSpec& linear, int64_t begin) {
      WeightSource& hub = stacked(linear, ".input_linear");
      hub.rows = {begin, begin + parts.width};
      hub.stored_rows = 2 * parts.width;
    };
    half(expert.gate, 0);
    half(expert.up, parts.width);
    stacked(expert.down, ".output_linear");
  }
  return moe;
}

absl::Status ApplyGraniteMultipliers(const ModelConfig& config, ModelSpec& spec) {
  ASSIGN_OR_RETURN(const double embedding, ReadFactor(config, "embedding_multiplier"));
  ASSIGN_OR_RETURN(const double residual, ReadFactor(config, "residual_multiplier"));
  ASSIGN_OR_RETURN(const double scores, ReadFactor(config, "attention_multiplier"));
  ASSIGN_OR_RETURN(const double divisor, ReadFactor(config, "logits_scaling"));
  spec.embedding_scale = static_cast<float>(embedding);
  spec.logits_scale = static_cast<float>(1.0 / divisor);
  for (LayerSpec& layer : spec.layers) {
    layer.residual_scale = static_cast<float>(residual);
    if (auto* gqa = std::get_if<GqaSpec>(&layer.mixer)) gqa->scale = scores;
  }
  return absl::OkStatus();
}

}  // namespace shoal
