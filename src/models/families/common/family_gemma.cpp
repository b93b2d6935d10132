#include "models/families/common/family_gemma.h"

#include <cmath>
#include <optional>

#include "base/status.h"
#include "models/families/common/family_moe.h"
#include "models/families/common/nested_text_config.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

/// sqrt(D) in the precision of the reference's weights.
float EmbeddingScale(int64_t width) {
  return BF16ToF32(F32ToBF16(static_cast<float>(std::sqrt(static_cast<double>(width)))));
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

absl::StatusOr<float> ReadFinalLogitSoftcap(const ModelConfig& config) {
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
  PlaceBelowLanguageModel(spec);
  for (const std::string prefix : {"", "model."}) {  // Of MLX and older checkpoints; of the hub.
    spec.ignored_tensors.emplace_back(prefix + "vision_tower.", "the vision tower");
    spec.ignored_tensors.emplace_back(prefix + "audio_tower.", "the audio tower");
    for (const char* bridge : {"multi_modal_projector.", "embed_vision.", "embed_audio."}) {
      spec.ignored_tensors.emplace_back(prefix + bridge, "what leads from towers to the text model");
    }
  }
  return spec;
}

}  // namespace shoal
