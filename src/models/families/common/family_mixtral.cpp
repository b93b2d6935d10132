#include "models/families/common/family_mixtral.h"

#include <fmt/format.h>

namespace shoal {

void PlaceRouterBelowMlp(const std::string& layer, const char* router, MoeSpec& moe) {
  moe.router.linear.weight.sources.push_back(
      {.base = fmt::format("{}.mlp.{}", layer, router), .written = false});
  if (!moe.router.selection_bias) return;
  moe.router.selection_bias->sources.push_back(
      {.base = layer + ".mlp", .suffix = "e_score_correction_bias", .written = false});
}

}  // namespace shoal
