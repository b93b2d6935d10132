#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

std::vector<int> SparseLayers(const ModelSpec& spec) {
  std::vector<int> sparse;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (MoeOf(spec.layers[i]) != nullptr) sparse.push_back(static_cast<int>(i));
  }
  return sparse;
}

TEST(Qwen3Moe, MatchesTheReference) { ExpectGoldensMatch("qwen3_moe"); }

TEST(Qwen3Moe, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
                          "decoder_sparse_step", "mlp_only_layers", "intermediate_size", "head_dim"}) {
    ExpectConfigRefused("qwen3_moe", key, "", key);
  }
}

TEST(Qwen3Moe, LayersAreSparseWhereStepAndListSay) {
  EXPECT_EQ(SparseLayers(SpecWith("qwen3_moe", "mlp_only_layers", "[]")),
            (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(SparseLayers(SpecWith("qwen3_moe", "mlp_only_layers", "[0, 6]")),
            (std::vector<int>{1, 2, 3, 4, 5}));
  EXPECT_EQ(SparseLayers(SpecWith("qwen3_moe", "decoder_sparse_step", "3")), (std::vector<int>{5}));
}

TEST(Qwen3Moe, FindsExpertsAloneOrStacked) {
  const ModelSpec spec = SpecWith("qwen3_moe", "num_experts", "13");
  const WeightRef& down = MoeOf(spec.layers[3])->experts.at(7).down.weight;
  EXPECT_EQ(down.shape, (std::vector<int64_t>{320, 320}));
  ASSERT_EQ(down.sources.size(), 3u);
  EXPECT_EQ(down.sources[0].name(), "model.layers.3.mlp.experts.7.down_proj.weight");
  EXPECT_EQ(down.sources[1].name(), "model.layers.3.mlp.switch_mlp.down_proj.weight");
  EXPECT_EQ(down.sources[2].name(), "model.layers.3.mlp.experts.down_proj");
  EXPECT_EQ(down.sources[1].stack, 13);
  EXPECT_EQ(down.sources[1].index, 7);
}

TEST(Qwen3Moe, RefusesExpertsThatCannotBe) {
  ExpectConfigRefused("qwen3_moe", "num_experts_per_tok", "14", "num_experts_per_tok");
  ExpectConfigRefused("qwen3_moe", "num_experts_per_tok", "0", "num_experts_per_tok");
  ExpectConfigRefused("qwen3_moe", "decoder_sparse_step", "0", "decoder_sparse_step");
  ExpectConfigRefused("qwen3_moe", "mlp_only_layers", "[7]", "mlp_only_layers");
  ExpectConfigRefused("qwen3_moe", "norm_topk_prob", "\"yes\"", "norm_topk_prob");
  ExpectConfigRefused("qwen3_moe", "num_experts", "1000000", "num_experts");
}

TEST(Qwen3Moe, RefusesMoreExpertsThanTheKernelsTake) {
  ExpectConfigRefused("qwen3_moe", {{"num_experts", "64"}, {"num_experts_per_tok", "32"}},
                      "32 experts per token exceed 31");
  ExpectConfigRefused("qwen3_moe", "num_experts", "2048", "2048 experts in a layer exceed 1024");
}

}  // namespace
}  // namespace shoal
