#include <gtest/gtest.h>

#include "compute/blocks/norm_rope.h"
#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

// Scores are not scaled down, which makes every rounding count: the references differ by 2e-4 between
// themselves.
TEST(Gemma4Text, MatchesTheReference) { ExpectGoldensMatch("gemma4", 5e-3); }

TEST(Gemma4Text, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key :
       {"global_head_dim", "rope_parameters", "num_experts", "top_k_experts", "sliding_window"}) {
    ExpectConfigRefused("gemma4_text", key, "", key);
  }
}

TEST(Gemma4Text, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("gemma4_text", "hidden_size_per_layer_input", "256", "hidden_size_per_layer_input");
  ExpectConfigRefused("gemma4_text", "num_kv_shared_layers", "2", "num_kv_shared_layers");
  ExpectConfigRefused("gemma4_text", "use_bidirectional_attention", R"("all")", R"(found "all")");
  ExpectConfigRefused("gemma4_text", "per_layer_config", "{}", "per_layer_config");
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

TEST(Gemma4Text, WithoutExpertsALayerIsDense) {
  const ModelSpec spec = SpecWith("gemma4_text", "enable_moe_block", "false");
  EXPECT_EQ(std::get<DenseSpec>(spec.layers[3].feed_forward).gating, Gating::kGelu);
  EXPECT_TRUE(spec.layers[3].feed_forward_out_norm.has_value());
}

}  // namespace
}  // namespace shoal
