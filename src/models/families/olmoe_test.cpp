#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Olmoe, MatchesTheReference) { ExpectGoldensMatch("olmoe"); }

TEST(Olmoe, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_experts", "num_experts_per_tok", "intermediate_size", "norm_topk_prob"}) {
    ExpectConfigRefused("olmoe", key, "", key);
  }
}

TEST(Olmoe, NormsAllHeadsTogether) {
  const ModelSpec spec = SpecWith("olmoe", "num_key_value_heads", "4");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[2].mixer);
  EXPECT_EQ(gqa.q_norm->weight.shape, std::vector<int64_t>{320});
  EXPECT_EQ(gqa.k_norm->weight.shape, std::vector<int64_t>{80});
}

TEST(Olmoe, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("olmoe", "clip_qkv", "8.0", "clip_qkv");
  ExpectConfigRefused("olmoe", "sliding_window", "64", "sliding_window");
}

}  // namespace
}  // namespace shoal
