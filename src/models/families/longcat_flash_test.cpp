#include <gtest/gtest.h>

#include <cmath>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(LongcatFlash, MatchesTheReference) { ExpectGoldensMatch("longcat_flash"); }

TEST(LongcatFlash, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_layers", "ffn_hidden_size", "expert_ffn_hidden_size", "moe_topk",
                          "n_routed_experts", "zero_expert_num", "routed_scaling_factor", "q_lora_rank",
                          "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}) {
    ExpectConfigRefused("longcat_flash", key, "", key);
  }
}

TEST(LongcatFlash, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("longcat_flash", "attention_method", R"("MHA")", "attention_method");
  ExpectConfigRefused("longcat_flash", "zero_expert_type", R"("drop")", "zero_expert_type");
  ExpectConfigRefused("longcat_flash", "router_bias", "true", "router_bias");
  ExpectConfigRefused("longcat_flash", "norm_topk_prob", "true", "norm_topk_prob");
  ExpectConfigRefused("longcat_flash", "mla_scale_q_lora", "false", "mla_scale_q_lora");
  ExpectConfigRefused("longcat_flash", "mla_scale_kv_lora", "false", "mla_scale_kv_lora");
  ExpectConfigRefused("longcat_flash", "attention_bias", "true", "attention_bias");
  ExpectConfigRefused("longcat_flash", "num_hidden_layers", "9", "num_hidden_layers");
  ExpectConfigRefused("longcat_flash", "head_dim", "64", "head_dim");
  ExpectConfigRefused("longcat_flash", "zero_expert_num", "1012", "1025 experts in a layer exceed 1024");
}

TEST(LongcatFlash, TakesWhatTheHubsConfigLeavesOutFromTheReference) {
  const ModelSpec spec = SpecWith("longcat_flash", {{"num_hidden_layers", ""},
                                                    {"num_key_value_heads", ""},
                                                    {"head_dim", ""},
                                                    {"hidden_act", ""},
                                                    {"tie_word_embeddings", ""}});
  EXPECT_EQ(spec.layer_count(), 8);
  EXPECT_FALSE(spec.tied_head);
}

TEST(LongcatFlash, ALayerIsTwoHalvesThatHandOnTheExpertsSum) {
  const ModelSpec spec = SpecWith("longcat_flash", {});
  EXPECT_EQ(spec.row_width(), 2 * spec.width);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool first = i % 2 == 0;
    EXPECT_EQ(spec.layers[i].addend, first ? AddendUse::kSet : AddendUse::kAdd);
    EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, first);
  }
  const MoeSpec& moe = *MoeOf(spec.layers[2]);
  EXPECT_EQ(moe.shared->up.weight.sources[0].name(), "model.layers.1.mlps.0.up_proj.weight");
  EXPECT_EQ(DenseOf(spec.layers[3])->up.weight.sources[0].name(), "model.layers.1.mlps.1.up_proj.weight");
}

TEST(LongcatFlash, IdentitiesAreChosenAsExpertsAndHaveNoWeights) {
  const ModelSpec spec = SpecWith("longcat_flash", {});
  const MoeSpec& moe = *MoeOf(spec.layers[0]);
  EXPECT_EQ(moe.identities, 6);
  EXPECT_EQ(moe.experts.size(), 13u);
  EXPECT_EQ(moe.router.linear.weight.shape, (std::vector<int64_t>{19, 320}));
  EXPECT_EQ(moe.router.selection_bias->shape, (std::vector<int64_t>{19}));
  EXPECT_EQ(moe.computed_per_row(), 3);  // Of 4, 4 * 13 / 19.
}

TEST(LongcatFlash, LatentsAreAsLongAsRows) {
  const ModelSpec spec = SpecWith("longcat_flash", {{"q_lora_rank", "64"}, {"kv_lora_rank", "128"}});
  const auto& mla = std::get<MlaSpec>(spec.layers[1].mixer);
  EXPECT_FLOAT_EQ(mla.q_norm->factor, std::sqrt(5.0f));
  EXPECT_FLOAT_EQ(mla.kv_norm.factor, std::sqrt(2.5f));
}

}  // namespace
}  // namespace shoal
