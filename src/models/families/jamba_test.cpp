#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualJamba() { return SpecWith("jamba", "use_cache", "true"); }

TEST(Jamba, MatchesTheReference) { ExpectGoldensMatch("jamba"); }

TEST(Jamba, LayersAttendAndHaveExpertsByPeriodAndOffset) {
  const ModelSpec spec = UsualJamba();
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::holds_alternative<GqaSpec>(spec.layers[i].mixer), i % 4 == 2) << i;
    EXPECT_EQ(PositionRopeOf(spec.layers[i].mixer), nullptr) << i;
    EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, i % 2 == 1) << i;
  }
  // As in the reference.
  const ModelSpec usual = SpecWith("jamba", {{"attn_layer_offset", ""},
                                             {"attn_layer_period", ""},
                                             {"expert_layer_offset", ""},
                                             {"expert_layer_period", ""}});
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::holds_alternative<GqaSpec>(usual.layers[i].mixer), i == 4) << i;
    EXPECT_EQ(MoeOf(usual.layers[i]) != nullptr, i % 2 == 1) << i;
  }
  ExpectConfigRefused("jamba", "attn_layer_offset", "4", "attn_layer_offset");
}

TEST(Jamba, TheRouterWeighsByTheSoftmaxOverAllExperts) {
  const MoeSpec& moe = *MoeOf(UsualJamba().layers[1]);
  EXPECT_EQ(moe.router.scores, RouteScores::kSoftmax);
  EXPECT_EQ(moe.router.weighting, RouteWeights::kAsIs);
  const ModelSpec dense = SpecWith("jamba", "num_experts", "1");
  for (const LayerSpec& layer : dense.layers) EXPECT_NE(DenseOf(layer), nullptr);
}

TEST(Jamba, AMixerHasItsPartsUnderTheHubsNames) {
  const ModelSpec spec = UsualJamba();
  const Mamba1Spec& mamba = std::get<Mamba1Spec>(spec.layers[3].mixer);
  EXPECT_EQ(mamba.channels, 640);
  EXPECT_EQ(mamba.x.weight.sources[0].rows, (Range{0, 640}));
  EXPECT_EQ(mamba.gate.weight.sources[0].rows, (Range{640, 1280}));
  EXPECT_EQ(mamba.gate.bias->sources[0].strided->offset, 640);
  EXPECT_EQ(mamba.inputs.weight.shape, (std::vector<int64_t>{320 + 2 * 10, 640}));
  EXPECT_TRUE(mamba.steps.bias.has_value());
  EXPECT_EQ(mamba.decay_log.sources[0].strided->stored_shape, (std::vector<int64_t>{640, 10}));
  EXPECT_EQ(mamba.key_norm.weight.sources[0].name(), "model.layers.3.mamba.b_layernorm.weight");
  EXPECT_EQ(mamba.query_norm.weight.sources[0].name(), "model.layers.3.mamba.c_layernorm.weight");
  EXPECT_EQ(mamba.state_values(), 3 * 640 + 640 * 10);
  const MoeSpec& moe = *MoeOf(spec.layers[3]);
  EXPECT_EQ(moe.router.linear.weight.sources[0].name(), "model.layers.3.feed_forward.router.weight");
  EXPECT_EQ(moe.experts[2].up.weight.sources[0].name(),
            "model.layers.3.feed_forward.experts.2.up_proj.weight");
  EXPECT_EQ(moe.experts[2].up.weight.sources[1].name(),
            "model.layers.3.feed_forward.switch_mlp.up_proj.weight");
}

TEST(Jamba, StepsAreMadeOfASixteenthOfTheWidthUnlessTheConfigSaysOtherwise) {
  for (const char* value : {"", R"("auto")"}) {
    const ModelSpec spec = SpecWith("jamba", "mamba_dt_rank", value);
    EXPECT_EQ(std::get<Mamba1Spec>(spec.layers[0].mixer).step_rank, 20) << value;
  }
  ExpectConfigRefused("jamba", "mamba_dt_rank", R"("half")", "mamba_dt_rank");
}

TEST(Jamba, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("jamba", "hidden_act", R"("gelu")", R"(found "gelu")");
  ExpectConfigRefused("jamba", "sliding_window", "16", "sliding_window");
  ExpectConfigRefused("jamba", "mamba_inner_layernorms", "false", "mamba_inner_layernorms");
  for (const char* key : {"mamba_expand", "mamba_d_state", "mamba_d_conv", "num_experts",
                          "num_experts_per_tok", "intermediate_size"}) {
    ExpectConfigRefused("jamba", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
