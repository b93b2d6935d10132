#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Mixtral, MatchesTheReference) { ExpectGoldensMatch("mixtral"); }

TEST(Mixtral, FindsExpertsUnderItsOwnNamesOrStacked) {
  const ModelSpec spec = SpecWith("mixtral", "num_experts_per_tok", "3");
  const MoeSpec& moe = *MoeOf(spec.layers[3]);
  EXPECT_EQ(moe.top_k, 3);
  EXPECT_EQ(moe.router.weighting, RouteWeights::kRenormalized);
  EXPECT_EQ(moe.router.linear.weight.sources[0].name(), "model.layers.3.block_sparse_moe.gate.weight");
  const DenseSpec& expert = moe.experts.at(7);
  EXPECT_EQ(expert.gate.weight.sources[0].name(), "model.layers.3.block_sparse_moe.experts.7.w1.weight");
  EXPECT_EQ(expert.up.weight.sources[0].name(), "model.layers.3.block_sparse_moe.experts.7.w3.weight");
  EXPECT_EQ(expert.down.weight.sources[0].name(), "model.layers.3.block_sparse_moe.experts.7.w2.weight");
  EXPECT_EQ(expert.up.weight.sources[1].name(), "model.layers.3.block_sparse_moe.switch_mlp.up_proj.weight");
}

TEST(Mixtral, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_local_experts", "num_experts_per_tok", "intermediate_size"}) {
    ExpectConfigRefused("mixtral", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
