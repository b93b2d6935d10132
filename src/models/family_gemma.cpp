#include "models/family_gemma.h"

#include <cmath>
#include <optional>
#include <utility>

#include "base/status.h"
#include "models/family_moe.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

/// sqrt(D) in the precision of the reference's weights.
float EmbeddingScale(int64_t width) {
  return BF16ToF32(F32ToBF16(static_cast<float>(std::sqrt(static_cast<double>(width)))));
}

/// "model.x" lies elsewhere below a model that does not hold text alone.
void PlaceBelowLanguageModel(WeightRef& ref) {
  constexpr std::string_view kModel = "model.";
  std::vector<WeightSource> placed;
  for (const WeightSource& source : ref.sources) {
    const bool in_model = source.base.starts_with(kModel);
    // A stack is the hub's or MLX's, by its name; all else may be either's.
    const bool only_mlx = source.stack > 0 && source.suffix == "weight";
    const bool only_hub = source.stack > 0 && !only_mlx;
    if (!only_mlx) {
      placed.push_back(source);
      if (in_model) placed.back().base = "model.language_model." + source.base.substr(kModel.size());
    }
    if (!only_hub) {
      placed.push_back(source);
      placed.back().base = "language_model." + source.base;
    }
  }
  ref.sources = std::move(placed);
}

void SetOffset(float offset, NormSpec& norm) {
  for (WeightSource& source : norm.weight.sources) source.offset = offset;
}

}  // namespace

void MakeGemma(const DecoderSizes& sizes, float norm_offset, ModelSpec& spec) {
  spec.embedding_scale = EmbeddingScale(sizes.width);
  SetOffset(norm_offset, spec.final_norm);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const auto norm = [&](const char* name) {
      NormSpec made = NormAt(fmt::format("model.layers.{}.{}", i, name), sizes.width, sizes.eps);
      SetOffset(norm_offset, made);
      return made;
    };
    LayerSpec& layer = spec.layers[i];
    layer.mixer_norm = norm("input_layernorm");
    layer.mixer_out_norm = norm("post_attention_layernorm");
    layer.feed_forward_norm = norm("pre_feedforward_layernorm");
    layer.feed_forward_out_norm = norm("post_feedforward_layernorm");
    GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    SetOffset(norm_offset, *gqa.q_norm);
    SetOffset(norm_offset, *gqa.k_norm);
  }
}

absl::StatusOr<float> ReadLogitCap(const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::optional<double> cap,
                   config.optional_number("final_logit_softcapping", {1e-3, 1e6}));
  return static_cast<float>(cap.value_or(0));
}

absl::StatusOr<ModelSpec> TextModelOf(const ModelConfig& config, const Family& text,
                                      std::string_view defaults) {
  ASSIGN_OR_RETURN(const ModelConfig stated, config.required_object("text_config"));
  RETURN_IF_ERROR(RequireIfPresent(stated, "model_type", text.model_type));
  ASSIGN_OR_RETURN(ModelSpec spec, text.spec(stated.with_defaults(defaults)));
  ASSIGN_OR_RETURN(spec.model_type, config.required_string("model_type"));
  EditWeights(spec, PlaceBelowLanguageModel);
  for (const std::string prefix : {"", "model."}) {  // Of MLX and older checkpoints; of the hub.
    spec.left_out.emplace_back(prefix + "vision_tower.", "the vision tower");
    spec.left_out.emplace_back(prefix + "audio_tower.", "the audio tower");
    for (const char* bridge : {"multi_modal_projector.", "embed_vision.", "embed_audio."}) {
      spec.left_out.emplace_back(prefix + bridge, "what leads from towers to the text model");
    }
  }
  return spec;
}

std::string AroundTextConfig(std::string_view model_type, const std::string& text_config) {
  return fmt::format(R"({{"model_type": "{}", "text_config": {}}})", model_type, text_config);
}

}  // namespace shoal
