#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Mistral, MatchesTheReference) { ExpectGoldensMatch("mistral"); }

TEST(Mistral, EveryLayerHasTheWindow) {
  const ModelSpec spec = SpecWith("mistral", "sliding_window", "512");
  for (const LayerSpec& layer : spec.layers) EXPECT_EQ(std::get<GqaSpec>(layer.mixer).window, 512);
  const ModelSpec open = SpecWith("mistral", "sliding_window", "null");
  for (const LayerSpec& layer : open.layers) EXPECT_FALSE(std::get<GqaSpec>(layer.mixer).window.has_value());
}

TEST(Mistral, RefusesAWindowThatCannotBe) {
  ExpectConfigRefused("mistral", "sliding_window", "0", "sliding_window");
  ExpectConfigRefused("mistral", "sliding_window", "\"wide\"", "sliding_window");
}

}  // namespace
}  // namespace shoal
