#include "models/families/common/nested_text_config.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

namespace shoal {

void PlaceBelowLanguageModel(ModelSpec& spec,
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
      if (!only_mlx) {
        add(source, in_model ? "model.language_model." + source.base.substr(kModel.size()) : source.base,
            false);
      }
      if (!only_hub) add(source, "language_model." + source.base, true);
    }
    ref.sources = std::move(places);
  });
}

std::string NestTextConfig(std::string_view model_type, const std::string& text_config) {
  return fmt::format(R"({{"model_type": "{}", "text_config": {}}})", model_type, text_config);
}

}  // namespace shoal
