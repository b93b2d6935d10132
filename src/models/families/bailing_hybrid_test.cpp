#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualBailing() { return SpecWith("bailing_hybrid", "use_cache", "true"); }

TEST(BailingHybrid, MatchesTheReference) { ExpectGoldensMatch("bailing_hybrid"); }

TEST(BailingHybrid, TheLastLayerOfAGroupAttendsAndTheOthersKeepAState) {
  const ModelSpec spec = UsualBailing();
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::holds_alternative<MlaSpec>(spec.layers[i].mixer), i == 2 || i == 5) << i;
    EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, i > 0) << i;
  }
  const ModelSpec listed = SpecWith(
      "bailing_hybrid",
      {{"layer_types", R"(["full_attention", "linear_attention", "linear_attention", "linear_attention",
                           "linear_attention", "linear_attention", "full_attention"])"},
       {"mlp_layer_types", R"(["dense", "dense", "sparse", "sparse", "dense", "sparse", "sparse"])"}});
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::holds_alternative<MlaSpec>(listed.layers[i].mixer), i == 0 || i == 6) << i;
    EXPECT_EQ(MoeOf(listed.layers[i]) != nullptr, i > 1 && i != 4) << i;
  }
  ExpectConfigRefused("bailing_hybrid", "layer_types", R"(["full_attention"])", "for each of 7 layers");
  ExpectConfigRefused("bailing_hybrid", "mlp_layer_types",
                      R"(["dense", "dense", "dense", "dense", "dense", "dense", "wide"])", R"(found "wide")");
}

TEST(BailingHybrid, DecaysAreBoundedUnlessTheConfigDeniesIt) {
  const auto bound_with = [](const ConfigEdits& edits) {
    return std::get<GatedDeltaNetSpec>(SpecWith("bailing_hybrid", edits).layers[0].mixer).decay_bound;
  };
  EXPECT_EQ(bound_with({{"kda_lower_bound", "-3.5"}}), -3.5);
  EXPECT_EQ(bound_with({{"kda_lower_bound", ""}, {"kda_safe_gate", ""}}), -5.0);  // As in the reference.
  EXPECT_EQ(bound_with({{"kda_safe_gate", "false"}}), std::nullopt);
  ExpectConfigRefused("bailing_hybrid", "kda_lower_bound", "5", "kda_lower_bound");
}

TEST(BailingHybrid, GatesAndDecaysAreOfFullRankAndHeadsOfLatentAttentionHaveAGateEach) {
  const ModelSpec spec = UsualBailing();
  const GatedDeltaNetSpec& kda = std::get<GatedDeltaNetSpec>(spec.layers[0].mixer);
  EXPECT_TRUE(kda.decays_by_channel && kda.sigmoid_gate);
  EXPECT_FALSE(kda.a_in || kda.z_in);
  EXPECT_EQ(kda.a.weight.sources[0].name(), "model.layers.0.attention.f_proj.weight");
  EXPECT_EQ(kda.o.weight.sources[0].name(), "model.layers.0.attention.o_proj.weight");
  EXPECT_EQ(kda.decay_log.sources[0].name(), "model.layers.0.attention.A_log");
  EXPECT_EQ(kda.conv[1].sources[0].name(), "model.layers.0.attention.k_conv1d.weight");
  const MlaSpec& mla = std::get<MlaSpec>(spec.layers[2].mixer);
  ASSERT_TRUE(mla.gate.has_value());
  EXPECT_EQ(mla.gate->weight.shape, (std::vector<int64_t>{16, 320}));
  EXPECT_EQ(mla.o.weight.sources[0].name(), "model.layers.2.attention.dense.weight");
  EXPECT_EQ(mla.keys[3].weight.sources[1].name(), "model.layers.2.attention.embed_q.weight");
  EXPECT_EQ(mla.rope.pairing, RopePairing::kInterleaved);
}

TEST(BailingHybrid, OtherNamesAreTheHubs) {
  const ModelSpec spec = UsualBailing();
  EXPECT_EQ(spec.embedding.sources[0].name(), "model.word_embeddings.weight");
  const MoeSpec& moe = *MoeOf(spec.layers[1]);
  EXPECT_EQ(moe.router.selection_bias->sources[0].name(), "model.layers.1.mlp.gate.expert_bias");
  EXPECT_EQ(moe.shared->width, 384);
  EXPECT_EQ(
      MoeOf(SpecWith("bailing_hybrid", "moe_shared_expert_intermediate_size", "").layers[1])->shared->width,
      320);
  ASSERT_EQ(spec.ignored_tensors.size(), 1u);
  EXPECT_EQ(spec.ignored_tensors[0].first, "model.layers.7.");
}

TEST(BailingHybrid, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("bailing_hybrid", "no_kda_lora", "false", "no_kda_lora");
  ExpectConfigRefused("bailing_hybrid", "rope_interleave", "false", "rope_interleave");
  ExpectConfigRefused("bailing_hybrid", "use_qkv_bias", "true", "use_qkv_bias");
  ExpectConfigRefused("bailing_hybrid", "use_bias", "true", "use_bias");
  ExpectConfigRefused("bailing_hybrid", "score_function", R"("softmax")", R"(found "softmax")");
  ExpectConfigRefused("bailing_hybrid", "moe_router_enable_expert_bias", "false",
                      "moe_router_enable_expert_bias");
  for (const char* key : {"layer_group_size", "head_dim", "short_conv_kernel_size", "kv_lora_rank", "n_group",
                          "topk_group", "norm_topk_prob", "routed_scaling_factor", "num_shared_experts",
                          "first_k_dense_replace", "num_experts"}) {
    ExpectConfigRefused("bailing_hybrid", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
