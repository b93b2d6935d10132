#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

// The hub has it inside of mistral3 alone.
TEST(Mistral4, MatchesTheReference) { ExpectGoldensMatch("mistral4"); }

TEST(Mistral4, ExpertsAreChosenBySoftmaxAndStoredAsOneStack) {
  const ModelSpec spec = SpecWith("mistral4", "use_cache", "true");
  EXPECT_EQ(MoeOf(spec.layers[0]), nullptr);
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_EQ(moe.router.scores, RouteScores::kSoftmax);
  EXPECT_EQ(moe.router.weighting, RouteWeights::kRenormalized);
  EXPECT_FALSE(moe.router.selection_bias.has_value());
  EXPECT_EQ(moe.shared->width, 320);
  EXPECT_EQ(moe.experts[7].up.weight.sources[0].name(), "model.layers.1.mlp.experts.gate_up_proj");
  EXPECT_EQ(moe.experts[7].up.weight.sources[0].rows, (Range{320, 640}));
  EXPECT_EQ(std::get<MlaSpec>(spec.layers[6].mixer).temperature.beta, 0.1);
}

}  // namespace
}  // namespace shoal
