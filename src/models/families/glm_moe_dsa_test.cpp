#include <gtest/gtest.h>

#include <string>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(GlmMoeDsa, MatchesTheReference) { ExpectGoldensMatch("glm_moe_dsa"); }

TEST(GlmMoeDsa, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"index_topk", "index_n_heads", "index_head_dim", "q_lora_rank", "kv_lora_rank",
                          "first_k_dense_replace", "n_group"}) {
    ExpectConfigRefused("glm_moe_dsa", key, "", key);
  }
}

/// "F" or "S" for each layer: whether it picks. With those that hand on what they picked in lower case.
std::string PickingOf(const ModelSpec& spec) {
  std::string types;
  for (const LayerSpec& layer : spec.layers) {
    const TopPicks& picks = *std::get<MlaSpec>(layer.mixer).picks;
    EXPECT_TRUE(picks.indexer || picks.carried);
    types += !picks.indexer ? 'S' : picks.carried ? 'f' : 'F';
  }
  return types;
}

TEST(GlmMoeDsa, WhichLayersPickIsSaidInThreeWays) {
  EXPECT_EQ(PickingOf(SpecWith("glm_moe_dsa", "index_topk_freq", "3")), "FfSSfSS");
  EXPECT_EQ(PickingOf(SpecWith("glm_moe_dsa", {{"index_topk_freq", "2"}, {"index_skip_topk_offset", "1"}})),
            "fSfSfSF");
  EXPECT_EQ(PickingOf(SpecWith("glm_moe_dsa", "index_topk_pattern", R"("FSSFFFS")")), "fSSFFfS");
  EXPECT_EQ(PickingOf(SpecWith("glm_moe_dsa", "index_topk_pattern",
                               R"(["full", "shared", "full", "full", "full", "full", "full"])")),
            "fSFFFFF");
  EXPECT_EQ(
      PickingOf(SpecWith("glm_moe_dsa",
                         {{"indexer_types", R"(["full", "full", "full", "full", "full", "full", "shared"])"},
                          {"index_topk_pattern", R"("FSSFFFS")"}})),
      "FFFFFfS");
}

TEST(GlmMoeDsa, RowsCarryPicksOnlyWhereLayersShareThem) {
  const ModelSpec shared = SpecWith("glm_moe_dsa", "index_topk", "17");
  EXPECT_EQ(shared.row_width(), shared.width + 17);
  const ModelSpec alone = SpecWith("glm_moe_dsa", "index_topk_freq", "1");
  EXPECT_EQ(PickingOf(alone), "FFFFFFF");
  EXPECT_EQ(alone.row_width(), alone.width);
  EXPECT_EQ(CacheShapeOf(shared.layers[1].mixer).index_dim, 36);
  EXPECT_EQ(CacheShapeOf(shared.layers[2].mixer).index_dim, 0);
}

TEST(GlmMoeDsa, ItsHeadForMultiTokenPredictionPicks) {
  const ModelSpec spec = SpecWith("glm_moe_dsa", "num_nextn_predict_layers", "1");
  const TopPicks& picks = *std::get<MlaSpec>(spec.mtp->layer.mixer).picks;
  EXPECT_FALSE(picks.carried);
  EXPECT_EQ(picks.indexer->k.weight.sources[0].name(), "model.layers.7.self_attn.indexer.wk.weight");
  EXPECT_EQ(picks.indexer->pairing, RopePairing::kInterleaved);
}

TEST(GlmMoeDsa, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("glm_moe_dsa", "indexer_rope_interleave", "false", "indexer_rope_interleave");
  ExpectConfigRefused("glm_moe_dsa", "index_topk_pattern", R"("SFFFFFF")", "index_topk_pattern");
  ExpectConfigRefused("glm_moe_dsa", "index_topk_pattern", R"("FFF")", "index_topk_pattern");
  ExpectConfigRefused("glm_moe_dsa", "indexer_types",
                      R"(["full", "full", "full", "full", "full", "full", "half"])", "indexer_types");
}

}  // namespace
}  // namespace shoal
