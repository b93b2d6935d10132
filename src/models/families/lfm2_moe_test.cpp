#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Lfm2Moe, MatchesTheReference) { ExpectGoldensMatch("lfm2_moe"); }

TEST(Lfm2Moe, TheFirstLayersAreDenseAndTheOthersHaveABiasedSigmoidRouter) {
  const ModelSpec spec = SpecWith("lfm2_moe", "use_cache", "true");
  EXPECT_NE(DenseOf(spec.layers[1]), nullptr);
  const MoeSpec* moe = MoeOf(spec.layers[2]);
  ASSERT_NE(moe, nullptr);
  EXPECT_EQ(moe->router.scores, RouteScores::kSigmoid);
  EXPECT_EQ(moe->router.sum_eps, 1e-6f);
  EXPECT_EQ(moe->router.selection_bias->sources[0].name(), "model.layers.2.feed_forward.expert_bias");
  EXPECT_EQ(moe->experts[3].up.weight.sources[0].name(), "model.layers.2.feed_forward.experts.3.w3.weight");
  EXPECT_EQ(moe->experts[3].up.weight.sources[1].name(),
            "model.layers.2.feed_forward.switch_mlp.up_proj.weight");
  EXPECT_FALSE(
      MoeOf(SpecWith("lfm2_moe", "use_expert_bias", "false").layers[2])->router.selection_bias.has_value());
}

TEST(Lfm2Moe, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_dense_layers", "num_experts", "moe_intermediate_size", "norm_topk_prob",
                          "use_expert_bias", "routed_scaling_factor"}) {
    ExpectConfigRefused("lfm2_moe", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
