#include <gtest/gtest.h>

#include "compute/blocks/norm_rope.h"
#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

// Scores are not scaled down, which makes every rounding count: the references differ by 2e-4 between
// themselves.
TEST(Gemma4Text, MatchesTheReference) { ExpectGoldensMatch("gemma4", 5e-3); }

TEST(Gemma4Text, MatchesTheReferenceWithInputsOfLayersAndSharedKeys) { ExpectGoldensMatch("gemma4_text"); }

TEST(Gemma4Text, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key :
       {"global_head_dim", "rope_parameters", "num_experts", "top_k_experts", "sliding_window"}) {
    ExpectConfigRefused("gemma4_text", key, "", key);
  }
}

TEST(Gemma4Text, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("gemma4_text", "hidden_size_per_layer_input", "0",
                      "'num_kv_shared_layers': expected 0 where hidden_size_per_layer_input is 0, found 3");
  ExpectConfigRefused("gemma4_text", "num_kv_shared_layers", "6", "before the last 6");
  ExpectConfigRefused("gemma4_text", "num_kv_shared_layers", "8", "num_kv_shared_layers");
  ExpectConfigRefused("gemma4_text", "vocab_size_per_layer_input", "", "vocab_size_per_layer_input");
  ExpectConfigRefused("gemma4_text", "use_bidirectional_attention", R"("all")", R"(found "all")");
  ExpectConfigRefused("gemma4_text", "num_global_key_value_heads", "3",
                      "divisor of num_attention_heads = 16");
  ExpectConfigRefused("gemma4_text", "layer_types",
                      R"(["full_attention", "full_attention", "full_attention", "full_attention",
                          "full_attention", "full_attention", "sliding_attention"])",
                      R"(expected the last to be "full_attention")");
}

TEST(Gemma4Text, LayersThatSeeEverythingHaveTheirOwnHeadsAndNoValueMatrix) {
  const ModelSpec spec = SpecWith("gemma4_text", "num_key_value_heads", "4");
  const GqaSpec& local = std::get<GqaSpec>(spec.layers[0].mixer);
  const GqaSpec& full = std::get<GqaSpec>(spec.layers[2].mixer);
  EXPECT_EQ(local.head_dim, 28);
  EXPECT_EQ(local.kv_heads, 4);
  EXPECT_EQ(local.window, 33);
  EXPECT_FALSE(local.values_from_keys);
  EXPECT_EQ(full.head_dim, 60);
  EXPECT_EQ(full.kv_heads, 2);
  EXPECT_TRUE(full.values_from_keys);
  EXPECT_FALSE(full.window.has_value());
  const std::vector<float> frequencies = InverseFrequencies(full.rope);
  ASSERT_EQ(frequencies.size(), 30u);  // A quarter of 30 pairs rotates, seven, as in a head of 60 dimensions.
  EXPECT_GT(frequencies[6], 0.0f);
  EXPECT_EQ(frequencies[7], 0.0f);
}

TEST(Gemma4Text, HeadsOfLayersThatSeeEverythingMayStandWithThoseLayers) {
  const auto full_of = [](const char* layers) {
    const ModelSpec spec = SpecWith("gemma4_text", {{"global_head_dim", ""}, {"per_layer_config", layers}});
    return std::get<GqaSpec>(spec.layers[2].mixer);
  };
  const GqaSpec stated = full_of(R"({"2": {"head_dim": 44, "num_key_value_heads": 1},
                                    "6": {"head_dim": 44, "num_key_value_heads": 1}})");
  EXPECT_EQ(stated.head_dim, 44);
  EXPECT_EQ(stated.kv_heads, 1);
  EXPECT_EQ(full_of("{}").head_dim, 28);  // As all.
  EXPECT_EQ(full_of("{}").kv_heads, 4);
  ExpectConfigRefused("gemma4_text", "per_layer_config", R"({"2": {"head_dim": 44}})",
                      "found nothing in layer 6");
  ExpectConfigRefused("gemma4_text", "per_layer_config", R"({"3": {"head_dim": 44}})", "in layer 3");
  ExpectConfigRefused("gemma4_text", "per_layer_config", R"({"2": {"sliding_window": 44}})",
                      "per_layer_config.2.sliding_window");
  ExpectConfigRefused("gemma4_text", "per_layer_config",
                      R"({"2": {"head_dim": 44, "num_key_value_heads": 3},
                          "6": {"head_dim": 44, "num_key_value_heads": 3}})",
                      "divisor of num_attention_heads = 16");
}

TEST(Gemma4Text, TheLastLayersTakeKeysAndValuesAndHaveWiderMlps) {
  const ModelSpec spec = SpecWith("gemma4_text", "enable_moe_block", "false");
  const auto gqa = [&](size_t layer) { return std::get<GqaSpec>(spec.layers[layer].mixer); };
  for (const size_t layer : {0, 1}) EXPECT_FALSE(gqa(layer).shared_kv.has_value()) << layer;
  for (const size_t layer : {2, 3}) EXPECT_FALSE(gqa(layer).shared_kv->taken) << layer;
  for (const size_t layer : {4, 5, 6}) EXPECT_TRUE(gqa(layer).takes_kv()) << layer;
  EXPECT_EQ(gqa(2).shared_kv->column, gqa(6).shared_kv->column);
  EXPECT_EQ(gqa(3).shared_kv->column, gqa(5).shared_kv->column);
  EXPECT_EQ(spec.altup->shared_kv_values, 2 * 2 * 60 + 2 * 4 * 28);
  EXPECT_EQ(spec.row_width(), 320 + 7 * 320 + 464);
  EXPECT_EQ(DenseOf(spec.layers[3])->width, 384);
  EXPECT_EQ(DenseOf(spec.layers[4])->width, 768);
  EXPECT_EQ(DenseOf(SpecWith("gemma4_text", {{"enable_moe_block", "false"}, {"use_double_wide_mlp", "false"}})
                        .layers[4])
                ->width,
            384);
}

TEST(Gemma4Text, WithoutInputsOfLayersARowIsOneStream) {
  const ModelSpec spec =
      SpecWith("gemma4_text", {{"hidden_size_per_layer_input", "0"}, {"num_kv_shared_layers", "0"}});
  EXPECT_FALSE(spec.altup.has_value());
  EXPECT_FALSE(spec.layers[0].input.has_value());
  EXPECT_EQ(spec.row_width(), 320);
}

TEST(Gemma4Text, WithoutExpertsALayerIsDense) {
  const ModelSpec spec = SpecWith("gemma4_text", "enable_moe_block", "false");
  EXPECT_EQ(std::get<DenseSpec>(spec.layers[3].feed_forward).gating, Gating::kGelu);
  EXPECT_TRUE(spec.layers[3].feed_forward_out_norm.has_value());
}

}  // namespace
}  // namespace shoal
