#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(DeepseekV2, MatchesTheReference) { ExpectGoldensMatch("deepseek_v2"); }

TEST(DeepseekV2, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                          "first_k_dense_replace", "topk_method"}) {
    ExpectConfigRefused("deepseek_v2", key, "", key);
  }
}

TEST(DeepseekV2, HeadsOfKvBAreSplitIntoKeysAndValues) {
  const ModelSpec spec = SpecWith("deepseek_v2", "v_head_dim", "40");
  const MlaSpec& mla = std::get<MlaSpec>(spec.layers[0].mixer);
  EXPECT_FALSE(mla.q_a.has_value());
  ASSERT_EQ(mla.keys.size(), 16u);
  const WeightRef& key = mla.keys[3].weight;
  EXPECT_EQ(key.shape, (std::vector<int64_t>{320, 64}));
  ASSERT_TRUE(key.sources[0].strided.has_value());
  EXPECT_EQ(key.sources[0].strided->offset, 3 * 104 * 320);
  EXPECT_EQ(key.sources[1].name(), "model.layers.0.self_attn.embed_q.weight");
  EXPECT_EQ(key.sources[1].index, 3);
  EXPECT_EQ(mla.values[3].weight.sources[0].rows, (Range{3 * 104 + 64, 4 * 104}));
}

TEST(DeepseekV2, YarnScalesScoresByItsSecondScaleSquaredAndRopeByTheRatio) {
  const ModelSpec spec = SpecWith("deepseek_v2", "norm_topk_prob", "true");
  const MlaSpec& mla = std::get<MlaSpec>(spec.layers[0].mixer);
  const double ln4 = 1.3862943611198906;
  const double of_all = 0.1 * ln4 + 1;
  EXPECT_NEAR(mla.scale, of_all * of_all / 9.16515138991168, 1e-12);
  EXPECT_NEAR(mla.rope.magnitude, (0.0707 * ln4 + 1) / of_all, 1e-12);
  EXPECT_EQ(MoeOf(spec.layers[1])->router.weighting, RouteWeights::kAsIs);
}

TEST(DeepseekV2, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("deepseek_v2", "topk_method", R"("noaux_tc")",
                      R"("group_limited_greedy", found "noaux_tc")");
  ExpectConfigRefused("deepseek_v2", "attention_bias", "true", "attention_bias");
  ExpectConfigRefused("deepseek_v2", "qk_rope_head_dim", "21", "qk_rope_head_dim");
  ExpectConfigRefused("deepseek_v2", "kv_lora_rank", "1024", "head dimension 1044 exceeds 576");
}

}  // namespace
}  // namespace shoal
