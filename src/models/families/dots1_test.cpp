#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Dots1, MatchesTheReference) { ExpectGoldensMatch("dots1"); }

TEST(Dots1, NormsHeadsAndRoutesAsDeepseekV3) {
  const ModelSpec spec = SpecWith("dots1", "use_cache", "true");
  EXPECT_TRUE(std::get<GqaSpec>(spec.layers[0].mixer).q_norm.has_value());
  EXPECT_EQ(MoeOf(spec.layers[0]), nullptr);
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_EQ(moe.router.scores, RouteScores::kSigmoid);
  EXPECT_TRUE(moe.router.selection_bias.has_value());
  EXPECT_EQ(moe.shared->width, 640);
  EXPECT_EQ(moe.experts[2].up.weight.sources[1].name(), "model.layers.1.mlp.experts.up_proj.weight");
}

}  // namespace
}  // namespace shoal
