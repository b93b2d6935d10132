#include <gtest/gtest.h>

#include <cmath>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualFalconH1() { return SpecWith("falcon_h1", "use_cache", "true"); }

const AttentionBesideMamba2Spec& BothOf(const ModelSpec& spec, size_t layer) {
  return std::get<AttentionBesideMamba2Spec>(spec.layers[layer].mixer);
}

TEST(FalconH1, MatchesTheReference) { ExpectGoldensMatch("falcon_h1"); }

TEST(FalconH1, EveryLayerCachesPositionsAndKeepsAState) {
  const ModelSpec spec = UsualFalconH1();
  for (const LayerSpec& layer : spec.layers) {
    const KvLayerShape shape = CacheShapeOf(layer.mixer);
    EXPECT_TRUE(shape.has_blocks() && shape.has_states());
    EXPECT_EQ(shape.kv_heads, 2);
    EXPECT_EQ(shape.head_dim, 32);  // 20, padded.
    EXPECT_NE(PositionRopeOf(layer.mixer), nullptr);
    const MixerWork work = WorkOf(layer.mixer);
    EXPECT_EQ(work.per_position, 16 * 2 * 20);
    EXPECT_EQ(work.per_row, 3 * 384 * 20 + 4 * (384 + 2 * 2 * 20));
  }
  EXPECT_EQ(CacheShapeOf(spec.layers[0].mixer).state_values, BothOf(spec, 0).mamba.state_values());
}

TEST(FalconH1, MultipliersAreAppliedWhereTheReferenceHasThem) {
  const ModelSpec spec = UsualFalconH1();
  const AttentionBesideMamba2Spec& both = BothOf(spec, 3);
  EXPECT_DOUBLE_EQ(*both.attention.scale, 1.5 * 1.5 * 0.7 / std::sqrt(20.0));
  EXPECT_EQ(both.attention.value_scale, 1.5f);
  EXPECT_EQ(both.attention_scale, 0.8f);
  EXPECT_EQ(both.mamba_scale, 0.6f);
  EXPECT_EQ(both.mamba.factors.gate, static_cast<float>(1.25 * 0.7));
  EXPECT_EQ(both.mamba.factors.x, static_cast<float>(1.25 * 1.2));
  EXPECT_EQ(both.mamba.factors.b, static_cast<float>(1.25 * 0.8));
  EXPECT_EQ(both.mamba.factors.c, static_cast<float>(1.25 * 1.1));
  EXPECT_EQ(both.mamba.factors.step, static_cast<float>(1.25 * 0.9));
  EXPECT_EQ(DenseOf(spec.layers[3])->gate_scale, 0.9f);
  EXPECT_EQ(spec.layers[3].feed_forward_scale, 1.2f);
  EXPECT_EQ(spec.embedding_scale, 2.5f);
  EXPECT_EQ(spec.logits_scale, 0.5f);
  const ModelSpec none = SpecWith("falcon_h1", {{"ssm_multipliers", ""},
                                                {"mlp_multipliers", ""},
                                                {"ssm_in_multiplier", ""},
                                                {"key_multiplier", ""},
                                                {"attention_in_multiplier", ""}});
  EXPECT_EQ(BothOf(none, 0).mamba.factors.x, 1);
  EXPECT_DOUBLE_EQ(*BothOf(none, 0).attention.scale, 1 / std::sqrt(20.0));
  EXPECT_EQ(none.layers[0].feed_forward_scale, 1);
  ExpectConfigRefused("falcon_h1", "ssm_multipliers", "[1, 2]", "expected 5 numbers");
  ExpectConfigRefused("falcon_h1", "mlp_multipliers", "[1]", "expected 2 numbers");
}

TEST(FalconH1, TheNormOfStatesIsOptionalAndBeforeOrBehindTheGate) {
  EXPECT_TRUE(BothOf(UsualFalconH1(), 0).mamba.norm.has_value());
  EXPECT_FALSE(BothOf(UsualFalconH1(), 0).mamba.norm_before_gate);
  EXPECT_TRUE(BothOf(SpecWith("falcon_h1", "mamba_norm_before_gate", ""), 0).mamba.norm_before_gate);
  EXPECT_FALSE(BothOf(SpecWith("falcon_h1", "mamba_rms_norm", "false"), 0).mamba.norm.has_value());
}

TEST(FalconH1, HasNamesOfItsOwnAndReadsNoFoldersOfMlx) {
  const ModelSpec spec = UsualFalconH1();
  EXPECT_EQ(spec.final_norm.weight.sources[0].name(), "model.final_layernorm.weight");
  EXPECT_EQ(spec.layers[2].feed_forward_norm->weight.sources[0].name(),
            "model.layers.2.pre_ff_layernorm.weight");
  EXPECT_EQ(DenseOf(spec.layers[2])->down.weight.sources[0].name(),
            "model.layers.2.feed_forward.down_proj.weight");
  EXPECT_EQ(BothOf(spec, 2).mamba.step.weight.sources[0].name(), "model.layers.2.mamba.in_proj.weight");
  ASSERT_EQ(BothOf(spec, 2).mamba.conv.sources.size(), 1u);  // mlx-lm stores [channels, width, 1].
  EXPECT_EQ(BothOf(spec, 2).mamba.conv.sources[0].strided->stored_shape, (std::vector<int64_t>{464, 1, 4}));
}

TEST(FalconH1, TheInnerWidthIsStatedOrAMultipleOfTheOuter) {
  EXPECT_EQ(BothOf(SpecWith("falcon_h1", {{"mamba_d_ssm", ""}, {"mamba_n_heads", "10"}}), 0).mamba.inner(),
            2 * 320);
  ExpectConfigRefused("falcon_h1", "mamba_n_heads", "4", "expected mamba_n_heads * mamba_d_head = 256");
}

TEST(FalconH1, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  for (const char* key : {"attention_bias", "mamba_proj_bias", "projectors_bias"}) {
    ExpectConfigRefused("falcon_h1", key, "true", key);
  }
  ExpectConfigRefused("falcon_h1", "mamba_use_mlp", "false", "mamba_use_mlp");
  ExpectConfigRefused("falcon_h1", "hidden_act", R"("gelu")", R"(found "gelu")");
  for (const char* key : {"mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv",
                          "intermediate_size", "rope_theta"}) {
    ExpectConfigRefused("falcon_h1", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
