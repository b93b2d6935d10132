#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen2Moe, MatchesTheReference) { ExpectGoldensMatch("qwen2_moe"); }

TEST(Qwen2Moe, EverySparseLayerHasASharedExpertBehindAGate) {
  const ModelSpec spec = SpecWith("qwen2_moe", "decoder_sparse_step", "3");
  EXPECT_EQ(MoeOf(spec.layers[4]), nullptr);
  const MoeSpec& moe = *MoeOf(spec.layers[5]);
  ASSERT_TRUE(moe.shared && moe.shared_gate);
  EXPECT_EQ(moe.shared->width, 448);
  EXPECT_EQ(moe.shared->up.weight.sources[0].name(), "model.layers.5.mlp.shared_expert.up_proj.weight");
  EXPECT_EQ(moe.shared_gate->shape, (std::vector<int64_t>{1, 320}));
  EXPECT_EQ(moe.router.weighting, RouteWeights::kAsIs);
}

TEST(Qwen2Moe, AttentionHasBiasesUnlessTheConfigDeniesThem) {
  const auto first = [](const ModelSpec& spec) { return std::get<GqaSpec>(spec.layers[0].mixer); };
  EXPECT_TRUE(first(SpecWith("qwen2_moe", "qkv_bias", "")).q.bias.has_value());
  EXPECT_FALSE(first(SpecWith("qwen2_moe", "qkv_bias", "false")).q.bias.has_value());
}

TEST(Qwen2Moe, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob",
                          "shared_expert_intermediate_size", "decoder_sparse_step", "mlp_only_layers"}) {
    ExpectConfigRefused("qwen2_moe", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
