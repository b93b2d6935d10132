#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(DeepseekV3, MatchesTheReference) { ExpectGoldensMatch("deepseek_v3"); }

TEST(DeepseekV3, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
                          "first_k_dense_replace", "n_group", "norm_topk_prob"}) {
    ExpectConfigRefused("deepseek_v3", key, "", key);
  }
}

TEST(DeepseekV3, ChoosesByCorrectedSigmoidsInGroupsThatRankByTwo) {
  const ModelSpec spec =
      SpecWith("deepseek_v3", {{"n_routed_experts", "12"}, {"n_group", "4"}, {"topk_group", "2"}});
  const RouterSpec& router = MoeOf(spec.layers[1])->router;
  EXPECT_EQ(router.scores, RouteScores::kSigmoid);
  EXPECT_EQ(router.groups, (RouteGroups{.count = 4, .topk_group = 2, .by_top_two = true}));
  EXPECT_EQ(router.selection_bias->sources[0].name(), "model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(router.routed_scaling_factor, 2.5f);
}

TEST(DeepseekV3, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("deepseek_v3", "scoring_func", R"("softmax")", "scoring_func");
  ExpectConfigRefused("deepseek_v3", "topk_method", R"("greedy")", "topk_method");
}

}  // namespace
}  // namespace shoal
