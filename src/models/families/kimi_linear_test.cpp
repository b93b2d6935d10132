#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualKimiLinear() { return SpecWith("kimi_linear", "use_cache", "true"); }

TEST(KimiLinear, MatchesTheReference) { ExpectGoldensMatch("kimi_linear"); }

TEST(KimiLinear, ListedLayersAttendWithoutRopeAndTheOthersKeepAState) {
  const ModelSpec spec = UsualKimiLinear();
  for (size_t i = 0; i < 7; ++i) {
    const bool attends = i == 2 || i == 5;  // Counted from 1 in the config.
    EXPECT_EQ(std::holds_alternative<MlaSpec>(spec.layers[i].mixer), attends) << i;
    EXPECT_EQ(PositionRopeOf(spec.layers[i].mixer), nullptr) << i;
  }
  const GatedDeltaNetSpec& kda = std::get<GatedDeltaNetSpec>(spec.layers[0].mixer);
  EXPECT_TRUE(kda.decays_by_channel && kda.sigmoid_gate);
  EXPECT_EQ(kda.decays(), 320);
  EXPECT_EQ(kda.conv.size(), 3u);
}

TEST(KimiLinear, NamesAreTheHubsOrThoseOfMlx) {
  const ModelSpec spec = UsualKimiLinear();
  const auto names = [](const WeightRef& ref) {
    std::vector<std::string> all;
    for (const WeightSource& source : ref.sources) all.push_back(source.name());
    return all;
  };
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_THAT(names(moe.experts[2].up.weight),
              testing::ElementsAre("model.layers.1.block_sparse_moe.experts.2.w3.weight",
                                   "model.layers.1.mlp.switch_mlp.up_proj.weight",
                                   "model.layers.1.mlp.experts.gate_up_proj"));
  EXPECT_THAT(
      names(moe.router.linear.weight),
      testing::ElementsAre("model.layers.1.block_sparse_moe.gate.weight", "model.layers.1.mlp.gate.weight"));
  EXPECT_THAT(names(*moe.router.selection_bias),
              testing::ElementsAre("model.layers.1.block_sparse_moe.gate.e_score_correction_bias",
                                   "model.layers.1.mlp.e_score_correction_bias"));
  EXPECT_THAT(names(std::get<GatedDeltaNetSpec>(spec.layers[0].mixer).conv[1]),
              testing::ElementsAre("model.layers.0.self_attn.k_conv1d.weight",
                                   "model.layers.0.self_attn.k_conv.conv.weight"));
}

TEST(KimiLinear, TheContextIsModelMaxLength) {
  EXPECT_EQ(
      SpecWith("kimi_linear", {{"max_position_embeddings", ""}, {"model_max_length", "777"}}).max_positions,
      777);
  ExpectConfigRefused("kimi_linear", "max_position_embeddings", "", "model_max_length");
}

TEST(KimiLinear, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("kimi_linear", "mla_use_nope", "false", "mla_use_nope");
  ExpectConfigRefused("kimi_linear", "moe_router_activation_func", R"("softmax")", R"(found "softmax")");
  ExpectConfigRefused(
      "kimi_linear", "linear_attn_config",
      R"({"full_attn_layers": [3], "kda_layers": [1, 2, 4, 5, 7], "head_dim": 320, "num_heads": 1,
                          "short_conv_kernel_size": 4})",
      "expected layer 6 here or among the full_attn_layers");
  for (const char* key : {"linear_attn_config", "kv_lora_rank", "num_experts_per_token", "moe_renormalize",
                          "num_shared_experts", "num_expert_group", "first_k_dense_replace"}) {
    ExpectConfigRefused("kimi_linear", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
