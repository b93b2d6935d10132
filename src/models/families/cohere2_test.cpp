#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Cohere2, MatchesTheReference) { ExpectGoldensMatch("cohere2"); }

TEST(Cohere2, AttentionAndFeedForwardReadOneLayerNorm) {
  const ModelSpec spec = SpecWith("cohere2", "use_cache", "true");
  const LayerSpec& layer = spec.layers[2];
  EXPECT_TRUE(layer.parallel);
  EXPECT_TRUE(layer.mixer_norm->centered);
  EXPECT_FALSE(layer.mixer_norm->bias || layer.feed_forward_norm);
  EXPECT_EQ(layer.mixer_norm->eps, 1e-5f);
  EXPECT_EQ(spec.logits_scale, 0.25f);
}

TEST(Cohere2, OnlyLayersWithAWindowRotateByNeighbours) {
  const ModelSpec spec = SpecWith("cohere2", "use_cache", "true");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[1].mixer).rope.pairing, RopePairing::kInterleaved);
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[1].mixer).window, 33);
  EXPECT_EQ(PositionRopeOf(spec.layers[2].mixer), nullptr);
}

TEST(Cohere2, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("cohere2", "use_qk_norm", "true", "use_qk_norm");
  ExpectConfigRefused("cohere2", "logit_scale", "", "logit_scale");
}

}  // namespace
}  // namespace shoal
