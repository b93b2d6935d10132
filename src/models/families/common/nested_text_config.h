// Text models nested in a model of text, images and sound: their config is its `text_config`.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/spec.h"

namespace shoal {

/// What the hub calls `model.x` of a nested text model.
enum class NestedNames : uint8_t {
  kModelLanguageModel,  ///< `model.language_model.x`; the head is `lm_head`.
  kLanguageModel,       ///< `language_model.model.x` as in mlx-lm's folders, or the former.
  kPlain,               ///< `model.x` as of a text model, or the former.
};

/// Renames every weight's places: to those of the hub, then `language_model.x` for any `x`, which mlx-lm's folders have.
/// Stacks exist in one of the two only, except where their names are alike; other weights are looked for in both, the
/// hub's names first. `edit`, where given, is called with every new place and whether it is MLX's.
void PlaceBelowLanguageModel(ModelSpec& spec, NestedNames names = NestedNames::kModelLanguageModel,
                             const std::function<void(WeightSource& place, bool by_mlx)>& edit = {});

/// A text model that may be nested.
struct NestedText {
  std::string_view model_type;  ///< Of `text_config`.
  absl::StatusOr<ModelSpec> (*spec)(const ModelConfig& text);
  std::string_view defaults = "{}";  ///< Keys that configs leave out where they have the reference's default.
};

/// The text model of a checkpoint that also has towers for images or sound, whose tensors are ignored. `texts`: those
/// that its text_config may be; the first where it does not say. tie_word_embeddings may stand around text_config.
absl::StatusOr<ModelSpec> NestedTextModel(const ModelConfig& config, std::span<const NestedText> texts,
                                          NestedNames names = NestedNames::kModelLanguageModel);

/// Says that tensors of towers are ignored, under all names that they have on the hub and in mlx-lm's folders.
void IgnoreTowers(ModelSpec& spec);

/// A config.json with the text model's as its `text_config`.
std::string NestTextConfig(std::string_view model_type, const std::string& text_config);

}  // namespace shoal
