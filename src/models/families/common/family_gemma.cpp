#include "models/families/common/family_gemma.h"

#include <cmath>
#include <optional>

#include "base/status.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

/// The layer's norms beside those of LayerAt, whose names mean something else then.
void AddOutputNorms(const std::string& base, const DecoderSizes& sizes, LayerSpec& layer) {
  const auto norm = [&](const char* name) { return NormAt(base + name, sizes.width, sizes.eps); };
  layer.mixer_out_norm = norm(".post_attention_layernorm");
  layer.feed_forward_norm = norm(".pre_feedforward_layernorm");
  layer.feed_forward_out_norm = norm(".post_feedforward_layernorm");
}

}  // namespace

void CenterAtOne(NormSpec& norm) {
  WeightSource& hub = norm.weight.sources.at(0);
  hub.offset = 1;
  norm.weight.sources.push_back({.base = hub.base, .suffix = "one_plus_weight", .written = false});
}

float GemmaEmbeddingScale(int64_t width) {
  return BF16ToF32(F32ToBF16(static_cast<float>(std::sqrt(static_cast<double>(width)))));
}

void MakeGemma(const DecoderSizes& sizes, const GemmaNorms& norms, ModelSpec& spec) {
  spec.embedding_scale = GemmaEmbeddingScale(sizes.width);
  if (norms.zero_centered) CenterAtOne(spec.final_norm);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    if (norms.of_outputs) AddOutputNorms(fmt::format("model.layers.{}", i), sizes, layer);
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    for (std::optional<NormSpec>* norm : {&layer.mixer_norm, &layer.mixer_out_norm, &layer.feed_forward_norm,
                                          &layer.feed_forward_out_norm, &gqa.q_norm, &gqa.k_norm}) {
      if (*norm && norms.zero_centered) CenterAtOne(**norm);
    }
    if (auto* dense = std::get_if<DenseSpec>(&layer.feed_forward)) dense->gating = Gating::kGelu;
  }
}

absl::Status ReadGemmaRopes(const ModelConfig& config, int head_dim, RopeSpec& full, RopeSpec& local) {
  ASSIGN_OR_RETURN(const std::optional<ModelConfig> ropes, config.optional_object("rope_parameters"));
  if (ropes && ropes->has("full_attention")) {
    ASSIGN_OR_RETURN(full, ReadRopeOfType(config, "full_attention", head_dim));
    ASSIGN_OR_RETURN(local, ReadRopeOfType(config, "sliding_attention", head_dim));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(full, ReadRope(config, head_dim));
  local = {.dims = head_dim};
  ASSIGN_OR_RETURN(local.theta, config.required_number("rope_local_base_freq", {1.0, 1e15}));
  return absl::OkStatus();
}

absl::Status RefuseBidirectional(const ModelConfig& config) {
  constexpr char kKey[] = "use_bidirectional_attention";
  ASSIGN_OR_RETURN(const std::optional<bool> used, config.optional_bool(kKey));
  if (!used.value_or(false)) return absl::OkStatus();
  return Unimplemented("{}: expected false, found true; not built", config.where(kKey));
}

absl::StatusOr<float> ReadSoftcap(const ModelConfig& config, const char* key) {
  ASSIGN_OR_RETURN(const std::optional<double> cap, config.optional_number(key, {1e-3, 1e6}));
  return static_cast<float>(cap.value_or(0));
}

}  // namespace shoal
