#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Deepseek, MatchesTheReference) { ExpectGoldensMatch("deepseek"); }

TEST(Deepseek, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size",
                          "first_k_dense_replace", "norm_topk_prob"}) {
    ExpectConfigRefused("deepseek", key, "", key);
  }
}

TEST(Deepseek, LayersAreDenseFirstAndThenHaveExpertsAndAWideSharedOne) {
  const ModelSpec spec = SpecWith("deepseek", {{"first_k_dense_replace", "2"}, {"moe_layer_freq", "2"}});
  for (const size_t dense : {0, 1, 3, 5}) EXPECT_EQ(MoeOf(spec.layers[dense]), nullptr) << dense;
  for (const size_t sparse : {2, 4, 6}) {
    ASSERT_NE(MoeOf(spec.layers[sparse]), nullptr) << sparse;
    EXPECT_EQ(MoeOf(spec.layers[sparse])->shared->width, 640);
  }
}

TEST(Deepseek, RefusesAnotherScoring) {
  ExpectConfigRefused("deepseek", "scoring_func", R"("sigmoid")", R"(expected "softmax", found "sigmoid")");
}

}  // namespace
}  // namespace shoal
