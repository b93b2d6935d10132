#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;

TEST(SmolLm3, MatchesTheReference) { ExpectGoldensMatch("smollm3"); }

std::vector<bool> Rotating(const ModelSpec& spec) {
  std::vector<bool> rotating;
  for (const LayerSpec& layer : spec.layers) rotating.push_back(PositionRopeOf(layer.mixer) != nullptr);
  return rotating;
}

TEST(SmolLm3, LayersHaveRopeWhereTheListOrTheIntervalSays) {
  EXPECT_THAT(Rotating(SpecWith("smollm3", "use_cache", "true")),
              ElementsAre(true, true, false, true, true, false, true));
  EXPECT_THAT(Rotating(SpecWith("smollm3", "no_rope_layers", "null")),
              ElementsAre(true, true, true, false, true, true, true));
  EXPECT_THAT(Rotating(SpecWith("smollm3", {{"no_rope_layers", ""}, {"no_rope_layer_interval", "2"}})),
              ElementsAre(true, false, true, false, true, false, true));
  ExpectConfigRefused("smollm3", "no_rope_layers", "[1, 0]", "one for each of 7 layers, found 2");
  ExpectConfigRefused("smollm3", "no_rope_layers", "[2, 0, 0, 0, 0, 0, 0]", "no_rope_layers");
}

TEST(SmolLm3, AWindowIsOfLayersWithoutRope) {
  const ModelSpec spec = SpecWith("smollm3", {{"use_sliding_window", "true"}, {"sliding_window", "64"}});
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[2].mixer).window, 64);
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[3].mixer).window.has_value());
}

TEST(SmolLm3, TheHeadIsTiedWhereNothingIsSaid) {
  EXPECT_TRUE(SpecWith("smollm3", "use_cache", "true").tied_head);
  EXPECT_FALSE(SpecWith("smollm3", "tie_word_embeddings", "false").tied_head);
}

}  // namespace
}  // namespace shoal
