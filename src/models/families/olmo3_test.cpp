#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Olmo3, MatchesTheReference) { ExpectGoldensMatch("olmo3"); }

TEST(Olmo3, OnlyLayersThatSeeEverythingStretchTheirRope) {
  const ModelSpec spec = SpecWith("olmo3", "sliding_window", "64");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[i].mixer);
    EXPECT_EQ(gqa.window.has_value(), i != 3);
    EXPECT_EQ(std::holds_alternative<RopeYarn>(gqa.rope.scaling), i == 3);
    EXPECT_EQ(gqa.rope.magnitude, i == 3 ? 1.2 : 1.0);
    EXPECT_EQ(gqa.rope.theta, 500000.0);
  }
}

TEST(Olmo3, NewerConfigsHaveARopeForEachTypeOfLayer) {
  const ModelSpec spec = SpecWith(
      "olmo3", {{"rope_theta", ""},
                {"rope_scaling", ""},
                {"rope_parameters", R"({"sliding_attention": {"rope_type": "default", "rope_theta": 20000},
                               "full_attention": {"rope_type": "linear", "factor": 4, "rope_theta": 5000000}})"}});
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).rope.theta, 20000.0);
  EXPECT_EQ(std::get<RopeLinear>(std::get<GqaSpec>(spec.layers[3].mixer).rope.scaling).factor, 4.0);
}

}  // namespace
}  // namespace shoal
