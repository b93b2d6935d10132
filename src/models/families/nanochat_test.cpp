#include <gtest/gtest.h>

#include "compute/blocks/norm_rope.h"
#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Nanochat, MatchesTheReference) { ExpectGoldensMatch("nanochat"); }

TEST(Nanochat, NoNormHasAWeight) {
  const ModelSpec spec = SpecWith("nanochat", "use_cache", "true");
  EXPECT_TRUE(spec.embedding_norm.has_value());
  ForEachWeight(spec, [](const WeightUse& use) { EXPECT_NE(use.role, "norm"); });
}

TEST(Nanochat, RotatesBackwardsAndNormsBehindIt) {
  const ModelSpec spec = SpecWith("nanochat", "use_cache", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_TRUE(gqa.rope.backwards && gqa.norm_behind_rope);
  EXPECT_LT(MakeRopeTable(gqa.rope).inverse_frequencies[0], 0.0f);
  EXPECT_EQ(DenseOf(spec.layers[0])->activation, Activation::kRelu2);
  EXPECT_EQ(spec.final_logit_softcap, 15.0f);
}

}  // namespace
}  // namespace shoal
