#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(DeepseekV32, MatchesTheReference) { ExpectGoldensMatch("deepseek_v32"); }

TEST(DeepseekV32, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"index_topk", "index_n_heads", "index_head_dim", "q_lora_rank", "qk_rope_head_dim",
                          "kv_lora_rank", "first_k_dense_replace", "n_group"}) {
    ExpectConfigRefused("deepseek_v32", key, "", key);
  }
}

TEST(DeepseekV32, EveryLayerPicksItsPositions) {
  const ModelSpec spec = SpecWith("deepseek_v32", "index_topk", "99");
  EXPECT_EQ(spec.row_width(), spec.width);
  for (const LayerSpec& layer : spec.layers) {
    const TopPicks& picks = *std::get<MlaSpec>(layer.mixer).picks;
    EXPECT_EQ(picks.count, 99);
    EXPECT_FALSE(picks.carried);
    ASSERT_TRUE(picks.indexer.has_value());
    EXPECT_EQ(picks.indexer->pairing, RopePairing::kHalfSplit);
  }
  const TopPicks& picks = *std::get<MlaSpec>(spec.layers[3].mixer).picks;
  EXPECT_EQ(picks.indexer->q.weight.shape, (std::vector<int64_t>{11 * 36, 320}));
  EXPECT_EQ(picks.indexer->k_norm.bias->sources[0].name(), "model.layers.3.self_attn.indexer.k_norm.bias");
  EXPECT_EQ(picks.indexer->k_norm.eps, 1e-6f);
}

TEST(DeepseekV32, TheKeysOfTheIndexerAreCachedBesideTheLatents) {
  const ModelSpec spec = SpecWith("deepseek_v32", "index_head_dim", "40");
  const KvLayerShape kept = CacheShapeOf(spec.layers[2].mixer);
  EXPECT_EQ(kept.index_dim, 40);
  EXPECT_EQ(kept.values_per_position(), 2 * CachedHeadDim(320 + 20) + 40);
}

TEST(DeepseekV32, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("deepseek_v32", "indexer_rope_interleave", "true", "indexer_rope_interleave");
  ExpectConfigRefused("deepseek_v32", "q_lora_rank", "null", "q_lora_rank");
  ExpectConfigRefused("deepseek_v32", "index_head_dim", "18", "index_head_dim");
  ExpectConfigRefused("deepseek_v32", "scoring_func", R"("softmax")", "scoring_func");
}

}  // namespace
}  // namespace shoal
