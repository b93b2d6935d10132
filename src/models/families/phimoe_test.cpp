#include <gtest/gtest.h>

#include <limits>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Phimoe, MatchesTheReference) { ExpectGoldensMatch("phimoe"); }

TEST(Phimoe, RoutesToTwoAsSparseMixerDoes) {
  const MoeSpec moe = *MoeOf(SpecWith("phimoe", "router_jitter_noise", "0.01").layers[0]);
  EXPECT_EQ(moe.router.weighting, RouteWeights::kSoftmaxOfNear);
  EXPECT_EQ(moe.router.near_distance, 0.02f);
  ExpectConfigRefused("phimoe", "num_experts_per_tok", "3", "num_experts_per_tok");
}

TEST(Phimoe, HasLayerNormsAndBiasesEverywhere) {
  const ModelSpec spec = SpecWith("phimoe", "use_cache", "true");
  EXPECT_TRUE(spec.final_norm.centered);
  EXPECT_EQ(spec.layers[4].feed_forward_norm->bias->sources[0].name(),
            "model.layers.4.post_attention_layernorm.bias");
  EXPECT_TRUE(spec.head.bias.has_value());
  EXPECT_FALSE(SpecWith("phimoe", "lm_head_bias", "false").head.bias.has_value());
  ExpectConfigRefused("phimoe", "tie_word_embeddings", "true", "lm_head_bias");
}

TEST(Phimoe, LongSequencesHaveAMagnitudeOfTheirOwn) {
  const ModelSpec spec = SpecWith("phimoe", "use_cache", "true");
  const RopeSpec& rope = std::get<GqaSpec>(spec.layers[0].mixer).rope;
  const RopeLong& both = std::get<RopeLong>(rope.scaling);
  EXPECT_EQ(rope.magnitude, 1.1);
  EXPECT_EQ(both.long_magnitude, 1.25);
  EXPECT_EQ(both.long_factors, both.short_factors) << "as in the reference";
  EXPECT_EQ(ShortRopePositions(spec), 73);
  const ModelSpec equal = SpecWith("phimoe", "rope_scaling.long_mscale", "1.1");
  EXPECT_EQ(ShortRopePositions(equal), std::numeric_limits<int64_t>::max());
}

}  // namespace
}  // namespace shoal
