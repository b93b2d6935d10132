#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(MinimaxM3, MatchesTheReference) { ExpectGoldensMatch("minimax_m3_vl"); }

TEST(MinimaxM3, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"rotary_dim", "head_dim", "num_local_experts", "dense_intermediate_size",
                          "shared_intermediate_size", "swiglu_limit", "routed_scaling_factor"}) {
    ExpectConfigRefused("minimax_m3_vl", std::string("text_config.") + key, "", key);
  }
  ExpectConfigRefused("minimax_m3_vl", "text_config", "", "text_config");
}

TEST(MinimaxM3, FindsItsTensorsByTheirNames) {
  const ModelSpec spec = SpecWith("minimax_m3_vl", "text_config.rotary_dim", "14");
  EXPECT_EQ(spec.model_type, "minimax_m3_vl");
  const auto& gqa = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(gqa.rope.dims, 14);
  EXPECT_EQ(gqa.q_norm->weight.shape, std::vector<int64_t>{28});
  EXPECT_EQ(gqa.q_norm->weight.sources[0].offset, 1);
  EXPECT_EQ(gqa.picks->indexer.q.weight.sources[0].name(),
            "language_model.model.layers.1.self_attn.index_q_proj.weight");
  EXPECT_EQ(gqa.picks->indexer.k_norm.weight.sources[0].offset, 1);
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[3].mixer).picks.has_value());
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_EQ(moe.experts[12].down.weight.sources[0].name(),
            "language_model.model.layers.1.block_sparse_moe.experts.12.w2.weight");
  EXPECT_EQ(moe.shared->gating, Gating::kClampedSwiglu);
  EXPECT_EQ(DenseOf(spec.layers[0])->limit, 1.5f);
}

TEST(MinimaxM3, OlderAndNewerKeysSayTheSame) {
  const ModelSpec spec = SpecWith(
      "minimax_m3_vl",
      {{"text_config.sparse_attention_config", ""},
       {"text_config.moe_layer_freq", ""},
       {"text_config.index_n_heads", "2"},
       {"text_config.index_head_dim", "24"},
       {"text_config.index_block_size", "64"},
       {"text_config.index_topk_blocks", "5"},
       {"text_config.index_local_blocks", "2"},
       {"text_config.layer_types",
        R"(["full_attention", "full_attention", "minimax_m3_sparse", "full_attention", "full_attention",
            "full_attention", "minimax_m3_sparse"])"},
       {"text_config.mlp_layer_types",
        R"(["dense", "dense", "sparse", "sparse", "sparse", "sparse", "sparse"])"}});
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[1].mixer).picks.has_value());
  const BlockPicks& picks = *std::get<GqaSpec>(spec.layers[2].mixer).picks;
  EXPECT_EQ(picks.size, 64);
  EXPECT_EQ(picks.count, 5);
  EXPECT_EQ(picks.local, 2);
  EXPECT_EQ(picks.positions(), 320);
  EXPECT_EQ(CacheShapeOf(spec.layers[2].mixer).index_dim, 24);
  EXPECT_EQ(CacheShapeOf(spec.layers[3].mixer).index_dim, 0);
  EXPECT_EQ(MoeOf(spec.layers[1]), nullptr);
}

TEST(MinimaxM3, TheFirstLayerMayBeSparseToo) {
  const std::string all = R"(["minimax_m3_sparse", "full_attention", "full_attention", "full_attention",
      "full_attention", "full_attention", "minimax_m3_sparse"])";
  const ModelSpec spec = SpecWith("minimax_m3_vl", "text_config.layer_types", all);
  EXPECT_TRUE(std::get<GqaSpec>(spec.layers[0].mixer).picks.has_value());
  ExpectConfigRefused("minimax_m3_vl", "text_config.layer_types",
                      R"(["full_attention", "full_attention", "full_attention", "full_attention",
                          "full_attention", "full_attention", "sliding_attention"])",
                      R"(found "sliding_attention")");
}

TEST(MinimaxM3, RefusesWhatIsNotBuiltByName) {
  const auto refused = [](const std::string& key, const char* value) {
    ExpectConfigRefused("minimax_m3_vl", "text_config." + key, value, key);
  };
  refused("scoring_func", R"("softmax")");
  refused("mlp_layer_types", R"(["dense", "sparse", "sparse", "sparse", "sparse", "sparse", "wide"])");
  refused("qk_norm_type", R"("per_layer")");
  refused("use_gemma_norm", "false");
  refused("use_routing_bias", "false");
  refused("swiglu_alpha", "1.5");
  refused("n_shared_experts", "2");
  refused("hidden_act", R"("gelu")");
  refused("layer_types", R"(["full_attention"])");
  const auto sparse = [](const char* key, const char* sizes) {
    ExpectConfigRefused("minimax_m3_vl", "text_config.sparse_attention_config", sizes, key);
  };
  sparse("sparse_init_block", R"({"sparse_init_block": 1})");
  sparse("sparse_score_type", R"({"sparse_score_type": "mean"})");
  sparse("use_sparse_attention", R"({"use_sparse_attention": false})");
  const auto with = [](const char* heads, const char* dim, const char* size) {
    return std::string(R"({"sparse_attention_freq": [0, 1, 1, 0, 1, 1, 1], "sparse_topk_blocks": 3,
        "sparse_local_block": 1, "sparse_num_index_heads": )") +
           heads + R"(, "sparse_index_dim": )" + dim + R"(, "sparse_block_size": )" + size + "}";
  };
  sparse("sparse_num_index_heads", with("1", "20", "4").c_str());
  sparse("sparse_index_dim", with("2", "8", "4").c_str());
  sparse("sparse_block_size", with("2", "20", "48").c_str());
}

}  // namespace
}  // namespace shoal
