#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Granitemoe, MatchesTheReference) { ExpectGoldensMatch("granitemoe"); }

TEST(Granitemoe, TakesExpertsFromTheHubsStacksOrFromMlxs) {
  const MoeSpec moe = *MoeOf(SpecWith("granitemoe", "use_cache", "true").layers[3]);
  const WeightSource& up = moe.experts[12].up.weight.sources[0];
  EXPECT_EQ(up.name(), "model.layers.3.block_sparse_moe.input_linear.weight");
  EXPECT_EQ(up.index, 12);
  EXPECT_EQ(up.rows, (Range{320, 640}));
  EXPECT_EQ(up.stored_rows, 640);
  EXPECT_EQ(moe.experts[12].up.weight.sources[1].name(),
            "model.layers.3.block_sparse_moe.switch_mlp.up_proj.weight");
  EXPECT_EQ(moe.router.linear.weight.sources[0].name(),
            "model.layers.3.block_sparse_moe.router.layer.weight");
}

TEST(Granitemoe, WeighsTheChosenBySoftmaxAndScalesWhatALayerAdds) {
  const ModelSpec spec = SpecWith("granitemoe", "residual_multiplier", "0.5");
  EXPECT_EQ(MoeOf(spec.layers[0])->router.weighting, RouteWeights::kSoftmax);
  EXPECT_EQ(spec.layers[0].residual_scale, 0.5f);
}

}  // namespace
}  // namespace shoal
