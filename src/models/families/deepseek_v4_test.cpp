#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(DeepseekV4, MatchesTheReference) { ExpectGoldensMatch("deepseek_v4"); }

TEST(DeepseekV4, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key :
       {"head_dim", "qk_rope_head_dim", "q_lora_rank", "o_groups", "o_lora_rank", "sliding_window",
        "index_n_heads", "index_head_dim", "index_topk", "compress_rope_theta", "rope_theta", "hc_mult",
        "hc_sinkhorn_iters", "hc_eps", "swiglu_limit", "moe_intermediate_size", "n_routed_experts"}) {
    ExpectConfigRefused("deepseek_v4", key, "", key);
  }
  ExpectConfigRefused("deepseek_v4", "layer_types", "", "compress_ratios");
}

TEST(DeepseekV4, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("deepseek_v4", "scoring_func", R"("sigmoid")", "scoring_func");
  ExpectConfigRefused("deepseek_v4", "topk_method", R"("greedy")", "topk_method");
  ExpectConfigRefused("deepseek_v4", "norm_topk_prob", "false", "norm_topk_prob");
  ExpectConfigRefused("deepseek_v4", "n_shared_experts", "2", "n_shared_experts");
  ExpectConfigRefused("deepseek_v4", "num_key_value_heads", "2", "num_key_value_heads");
  ExpectConfigRefused("deepseek_v4", "rope_parameters", "{}", "rope_parameters");
  ExpectConfigRefused("deepseek_v4", "o_groups", "3", "o_groups");
  ExpectConfigRefused("deepseek_v4", {{"layer_types", ""}, {"compress_ratios", "[0, 4, 8, 4, 8, 4, 0]"}},
                      "compress_ratios");
}

TEST(DeepseekV4, RatiosSayHowALayerSeesWhatIsBeforeItsWindow) {
  const ModelSpec spec = SpecWith(
      "deepseek_v4",
      {{"layer_types", ""}, {"compress_rates", ""}, {"compress_ratios", "[0, 4, 128, 4, 128, 4, 0, 0]"}});
  const auto mixer = [&](size_t layer) { return std::get<PooledAttentionSpec>(spec.layers[layer].mixer); };
  EXPECT_FALSE(mixer(0).pool.has_value());
  EXPECT_EQ(mixer(1).pool->ratio, 4);
  EXPECT_TRUE(mixer(1).pool->overlaps);
  EXPECT_EQ(mixer(1).indexer->top, 5);
  EXPECT_EQ(mixer(2).pool->ratio, 128);
  EXPECT_FALSE(mixer(2).pool->overlaps);
  EXPECT_FALSE(mixer(2).indexer.has_value());
  EXPECT_EQ(mixer(0).rope.theta, 10000);
  EXPECT_EQ(mixer(2).rope.theta, 160000);
  EXPECT_EQ(mixer(2).rope.magnitude, 1);
}

TEST(DeepseekV4, TheFirstLayersChooseExpertsByTokens) {
  const ModelSpec spec = SpecWith("deepseek_v4", {});
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const RouterSpec& router = MoeOf(spec.layers[i])->router;
    EXPECT_EQ(router.experts_of_token.has_value(), i < 2);
    EXPECT_EQ(router.selection_bias.has_value(), i >= 2);
    EXPECT_TRUE(router.sqrt_softplus);
  }
}

TEST(DeepseekV4, TheNormOfKeysHasTheHubsNameAndTheOneThatTransformersSaves) {
  const ModelSpec spec = SpecWith("deepseek_v4", {});
  const auto& sources = std::get<PooledAttentionSpec>(spec.layers[1].mixer).kv_norm.weight.sources;
  ASSERT_EQ(sources.size(), 2u);
  EXPECT_EQ(sources[0].name(), "layers.1.attn.kv_norm.weight");
  EXPECT_EQ(sources[1].name(), "layers.1.attn.norm.weight");
  EXPECT_FALSE(sources[1].written);
}

TEST(DeepseekV4, RowsAreAllStreams) {
  const ModelSpec spec = SpecWith("deepseek_v4", {});
  EXPECT_EQ(spec.row_width(), 4 * spec.width);
}

}  // namespace
}  // namespace shoal
