#include "models/families/common/nested_text_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "models/reference_defaults.h"

namespace shoal {

void PlaceBelowLanguageModel(ModelSpec& spec, NestedNames names,
                             const std::function<void(WeightSource& place, bool by_mlx)>& edit) {
  constexpr std::string_view kModel = "model.";
  EditWeights(spec, [&](WeightRef& ref) {
    std::vector<WeightSource> places;
    const auto add = [&](WeightSource place, std::string base, bool by_mlx) {
      place.base = std::move(base);
      if (edit) edit(place, by_mlx);
      places.push_back(std::move(place));
    };
    for (const WeightSource& source : ref.sources) {
      const bool in_model = source.base.starts_with(kModel);
      const bool only_mlx = source.stack > 0 && source.suffix == "weight";
      const bool only_hub = source.stack > 0 && !only_mlx;
      if (names == NestedNames::kPlain && in_model && !only_mlx) add(source, source.base, false);
      if (names == NestedNames::kLanguageModel) add(source, "language_model." + source.base, true);
      if (!only_mlx) {
        add(source, in_model ? "model.language_model." + source.base.substr(kModel.size()) : source.base,
            false);
      }
      if (names != NestedNames::kLanguageModel && !only_hub) {
        add(source, "language_model." + source.base, true);
      }
    }
    ref.sources = std::move(places);
  });
}

namespace {

/// What text_config is: what it says, or the first of those that are known.
absl::StatusOr<const NestedText*> FindText(const ModelConfig& text, std::span<const NestedText> texts) {
  ASSIGN_OR_RETURN(const std::optional<std::string> type, text.optional_string("model_type"));
  if (!type) return &texts.front();
  const auto found = std::ranges::find(texts, *type, &NestedText::model_type);
  if (found != texts.end()) return &*found;
  std::vector<std::string> known;
  for (const NestedText& each : texts) known.push_back(fmt::format("\"{}\"", each.model_type));
  return Unimplemented("{}: expected {}, found \"{}\"; no other text model is built here",
                       text.where("model_type"), Join(known, " or "), *type);
}

}  // namespace

absl::StatusOr<ModelSpec> NestedTextModel(const ModelConfig& config, std::span<const NestedText> texts,
                                          NestedNames names) {
  ASSIGN_OR_RETURN(const ModelConfig stated, config.required_object("text_config"));
  ASSIGN_OR_RETURN(const NestedText* known, FindText(stated, texts));
  ASSIGN_OR_RETURN(const std::optional<bool> tied, config.optional_bool("tie_word_embeddings"));
  ModelConfig text = stated;
  if (tied) text = text.with_defaults(fmt::format(R"({{"tie_word_embeddings": {}}})", *tied));
  ASSIGN_OR_RETURN(text, WithReferenceDefaults(text.with_defaults(known->defaults), known->model_type));
  ASSIGN_OR_RETURN(ModelSpec spec, known->spec(text));
  ASSIGN_OR_RETURN(spec.model_type, config.required_string("model_type"));
  PlaceBelowLanguageModel(spec, names);
  IgnoreTowers(spec);
  return spec;
}

void IgnoreTowers(ModelSpec& spec) {
  for (const std::string prefix : {"", "model."}) {  // Of MLX and older checkpoints; of the hub.
    for (const char* tower : {"vision_tower.", "visual.", "vision_model."}) {
      spec.ignored_tensors.emplace_back(prefix + tower, "the vision tower");
    }
    spec.ignored_tensors.emplace_back(prefix + "audio_tower.", "the audio tower");
    for (const char* bridge : {"multi_modal_projector.", "mm_projector.", "embed_vision.", "embed_audio."}) {
      spec.ignored_tensors.emplace_back(prefix + bridge, "what leads from towers to the text model");
    }
  }
}

std::string NestTextConfig(std::string_view model_type, const std::string& text_config) {
  return fmt::format(R"({{"model_type": "{}", "text_config": {}}})", model_type, text_config);
}

}  // namespace shoal
