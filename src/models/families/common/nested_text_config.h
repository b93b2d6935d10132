// Text models nested in a model of text, images and sound: their config is its `text_config`.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "models/spec.h"

namespace shoal {

/// Moves every weight to where it lies there: what is `model.x` alone is `model.language_model.x` on the hub,
/// and anything `x` is `language_model.x` where mlx-lm wrote it. A stack is the hub's or MLX's, by its name;
/// all else may be either's and is looked for in both places, the hub's first. `edit`, where given, is called
/// with every new place and whether it is MLX's.
void PlaceBelowLanguageModel(ModelSpec& spec,
                             const std::function<void(WeightSource& place, bool by_mlx)>& edit = {});

/// A config.json with the text model's as its `text_config`.
std::string NestTextConfig(std::string_view model_type, const std::string& text_config);

}  // namespace shoal
