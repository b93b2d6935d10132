#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Exaone4, MatchesTheReference) { ExpectGoldensMatch("exaone4"); }

TEST(Exaone4, NormsWhatIsAddedAndNotWhatIsRead) {
  const ModelSpec spec = SpecWith("exaone4", "use_cache", "true");
  const LayerSpec& layer = spec.layers[2];
  EXPECT_FALSE(layer.mixer_norm || layer.feed_forward_norm);
  EXPECT_EQ(layer.mixer_out_norm->weight.sources[0].name(), "model.layers.2.post_attention_layernorm.weight");
  EXPECT_EQ(layer.feed_forward_out_norm->weight.sources[0].name(),
            "model.layers.2.post_feedforward_layernorm.weight");
}

TEST(Exaone4, OnlyLayersWithAWindowRotateWhereSomeHaveOne) {
  const ModelSpec hybrid = SpecWith("exaone4", "use_cache", "true");
  EXPECT_EQ(std::get<GqaSpec>(hybrid.layers[2].mixer).window, 33);
  EXPECT_EQ(std::get<GqaSpec>(hybrid.layers[2].mixer).rope.dims, 28);
  EXPECT_EQ(std::get<GqaSpec>(hybrid.layers[3].mixer).position_rope(), nullptr);
  const ModelSpec full = SpecWith("exaone4", {{"layer_types", ""}, {"sliding_window", "null"}});
  EXPECT_EQ(std::get<GqaSpec>(full.layers[3].mixer).rope.dims, 28);
}

}  // namespace
}  // namespace shoal
