#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Ernie45, MatchesTheReference) { ExpectGoldensMatch("ernie4_5"); }

TEST(Ernie45, RotatesNeighboursAndHasBiasesWhereTheConfigSays) {
  const ModelSpec spec = SpecWith("ernie4_5", "use_bias", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_EQ(gqa.rope.pairing, RopePairing::kInterleaved);
  EXPECT_TRUE(gqa.o.bias && DenseOf(spec.layers[0])->down.bias);
  EXPECT_FALSE(std::get<GqaSpec>(SpecWith("ernie4_5", "use_bias", "").layers[0].mixer).q.bias.has_value());
}

TEST(Ernie45, TiesItsHeadWhenTheConfigIsSilent) {
  EXPECT_TRUE(SpecWith("ernie4_5", "tie_word_embeddings", "").tied_head);
}

}  // namespace
}  // namespace shoal
