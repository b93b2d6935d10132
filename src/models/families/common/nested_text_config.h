// Text models nested in a model of text, images and sound: their config is its `text_config`.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "models/spec.h"

namespace shoal {

/// Renames every weight's places: `model.x` of a text model is `model.language_model.x` on the hub, and any
/// `x` is `language_model.x` in mlx-lm's folders. Stacks exist in one of the two only; other weights are
/// looked for in both, the hub's name first. `edit`, where given, is called with every new place and whether
/// it is MLX's.
void PlaceBelowLanguageModel(ModelSpec& spec,
                             const std::function<void(WeightSource& place, bool by_mlx)>& edit = {});

/// A config.json with the text model's as its `text_config`.
std::string NestTextConfig(std::string_view model_type, const std::string& text_config);

}  // namespace shoal
