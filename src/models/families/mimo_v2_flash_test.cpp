#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(MimoV2Flash, MatchesTheReference) { ExpectGoldensMatch("mimo_v2_flash"); }

TEST(MimoV2Flash, LayersWithAWindowHaveTwiceTheKeysSinksAndAnotherTheta) {
  const ModelSpec spec = SpecWith("mimo_v2_flash", "use_cache", "true");
  const GqaSpec& full = std::get<GqaSpec>(spec.layers[0].mixer);
  const GqaSpec& windowed = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(full.kv_heads, 1);
  EXPECT_EQ(windowed.kv_heads, 2);
  EXPECT_FALSE(full.sinks || full.window);
  EXPECT_EQ(windowed.window, 33);
  EXPECT_EQ(windowed.sinks->sources[0].name(), "model.layers.1.self_attn.attention_sink_bias");
  EXPECT_EQ(full.rope.theta, 5e6);
  EXPECT_EQ(windowed.rope.theta, 1e4);
  EXPECT_EQ(windowed.rope.dims, 12);
}

TEST(MimoV2Flash, ValuesAreNarrowerThanKeysAndScaled) {
  const ModelSpec spec = SpecWith("mimo_v2_flash", "use_cache", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(gqa.value_scale, 0.707f);
  EXPECT_EQ(gqa.v.weight.shape, (std::vector<int64_t>{40, 320}));
  EXPECT_EQ(gqa.o.weight.shape, (std::vector<int64_t>{320, 320}));
  EXPECT_EQ(gqa.work().per_position, 16 * (28 + 20));
}

TEST(MimoV2Flash, AWindowOfPositionsCountsTheRowsOwn) {
  const ModelSpec spec = SpecWith("mimo_v2_flash", "sliding_window_size", "null");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[1].mixer).window, 32);
}

TEST(MimoV2Flash, WithoutAPatternEverySixthLayerAndTheFirstSeeEverything) {
  const ModelSpec spec = SpecWith("mimo_v2_flash", {{"hybrid_layer_pattern", ""}, {"moe_layer_freq", ""}});
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::get<GqaSpec>(spec.layers[i].mixer).window.has_value(), i != 0 && i != 5) << i;
    EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, i != 0) << i;
  }
}

TEST(MimoV2Flash, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("mimo_v2_flash", "swa_num_key_value_heads", "4", "swa_num_key_value_heads");
  ExpectConfigRefused("mimo_v2_flash", "num_key_value_heads", "16", "swa_num_key_value_heads");
  ExpectConfigRefused("mimo_v2_flash", "hybrid_layer_pattern", "[0, 1]", "hybrid_layer_pattern");
  ExpectConfigRefused("mimo_v2_flash", "moe_layer_freq", "[0, 1]", "moe_layer_freq");
  ExpectConfigRefused("mimo_v2_flash", "add_full_attention_sink_bias", "true",
                      "add_full_attention_sink_bias");
}

}  // namespace
}  // namespace shoal
