#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Gemma2, MatchesTheReference) { ExpectGoldensMatch("gemma2"); }

TEST(Gemma2, EveryOtherLayerHasTheWindowAndAllCapTheirScores) {
  const ModelSpec spec = SpecWith("gemma2", "sliding_window", "64");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[i].mixer);
    EXPECT_EQ(gqa.window, i % 2 == 0 ? std::optional<int64_t>(64) : std::nullopt);
    EXPECT_EQ(gqa.score_softcap, 2.0f);
    EXPECT_NEAR(*gqa.scale, 1 / 6.324555, 1e-6);
    EXPECT_EQ(spec.layers[i].feed_forward_out_norm->weight.sources[0].offset, 1);
  }
  EXPECT_EQ(spec.final_logit_softcap, 30.0f);
}

TEST(Gemma2, NullTurnsASoftCapOff) {
  const ModelSpec spec =
      SpecWith("gemma2", {{"attn_logit_softcapping", "null"}, {"final_logit_softcapping", "null"}});
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).score_softcap, 0);
  EXPECT_EQ(spec.final_logit_softcap, 0);
}

TEST(Gemma2, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"query_pre_attn_scalar", "sliding_window", "head_dim", "hidden_activation"}) {
    ExpectConfigRefused("gemma2", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
