#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Ministral3, MatchesTheReference) { ExpectGoldensMatch("ministral3"); }

TEST(Ministral3, QueriesGrowWithEveryStretchOfTheOriginalContext) {
  const ModelSpec spec = SpecWith("ministral3", "use_cache", "true");
  for (const LayerSpec& layer : spec.layers) {
    const GqaSpec& gqa = std::get<GqaSpec>(layer.mixer);
    EXPECT_EQ(gqa.temperature.beta, 0.1);
    EXPECT_EQ(gqa.temperature.interval, 16);
    EXPECT_EQ(gqa.temperature.shift, 0);
    EXPECT_EQ(gqa.rope.magnitude, 1.0);  // mscale over mscale_all_dim.
  }
  ExpectConfigRefused(
      "ministral3", "rope_parameters",
      R"({"rope_theta": 1e6, "rope_type": "default", "original_max_position_embeddings": 16})",
      "'rope_parameters.llama_4_scaling_beta'");
}

}  // namespace
}  // namespace shoal
