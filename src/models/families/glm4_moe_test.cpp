#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Glm4Moe, MatchesTheReference) { ExpectGoldensMatch("glm4_moe"); }

TEST(Glm4Moe, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key :
       {"head_dim", "attention_bias", "use_qk_norm", "n_group", "topk_group", "norm_topk_prob"}) {
    ExpectConfigRefused("glm4_moe", key, "", key);
  }
}

TEST(Glm4Moe, RotatesHalfOfEachHead) {
  const ModelSpec spec = SpecWith("glm4_moe", "partial_rotary_factor", "0.5");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).rope.dims, 10);
  ExpectConfigRefused("glm4_moe", "partial_rotary_factor", "0.05", "partial_rotary_factor");
}

TEST(Glm4Moe, RefusesGroupsThatCannotBe) {
  ExpectConfigRefused("glm4_moe", "n_group", "2", "expected a divisor of 13 experts");
  ExpectConfigRefused("glm4_moe", {{"n_group", "13"}, {"topk_group", "2"}}, "topk_group");
  ExpectConfigRefused("glm4_moe", {{"n_group", "1"}, {"topk_group", "2"}}, "topk_group");
}

TEST(Glm4Moe, NormsHeadsOnlyWhereTheConfigSays) {
  EXPECT_FALSE(
      std::get<GqaSpec>(SpecWith("glm4_moe", "use_qk_norm", "false").layers[0].mixer).q_norm.has_value());
}

}  // namespace
}  // namespace shoal
