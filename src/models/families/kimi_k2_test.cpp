#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(KimiK2, MatchesTheReference) { ExpectGoldensMatch("kimi_k2"); }

TEST(KimiK2, IsDeepseekV3UnderItsOwnName) {
  const ModelSpec spec = SpecWith("kimi_k2", "n_routed_experts", "384");
  EXPECT_EQ(spec.model_type, "kimi_k2");
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_EQ(moe.experts.size(), 384u);
  EXPECT_EQ(moe.router.scores, RouteScores::kSigmoid);
  EXPECT_TRUE(moe.router.selection_bias.has_value());
  EXPECT_TRUE(std::holds_alternative<MlaSpec>(spec.layers[0].mixer));
}

}  // namespace
}  // namespace shoal
