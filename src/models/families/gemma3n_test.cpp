#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualGemma3n() { return SpecWith("gemma3n", "text_config.use_cache", "true"); }

TEST(Gemma3n, MatchesTheReference) { ExpectGoldensMatch("gemma3n"); }

TEST(Gemma3n, TheLastLayersTakeKeysAndValuesOfTheLastOnesOfTheirKindBeforeThem) {
  const ModelSpec spec = UsualGemma3n();
  const auto shared = [&](size_t layer) { return std::get<GqaSpec>(spec.layers[layer].mixer).shared_kv; };
  for (const size_t layer : {0, 1}) EXPECT_FALSE(shared(layer).has_value()) << layer;
  for (const size_t layer : {2, 3}) EXPECT_FALSE(shared(layer)->taken) << layer;
  for (const size_t layer : {4, 5, 6}) EXPECT_TRUE(shared(layer)->taken) << layer;
  EXPECT_EQ(shared(3)->column, shared(6)->column);
  EXPECT_EQ(shared(2)->column, shared(4)->column);
  EXPECT_EQ(shared(2)->column, 2 * 2 * 28);
  EXPECT_EQ(spec.altup->shared_kv_values, 2 * 2 * 2 * 28);
  EXPECT_EQ(spec.row_width(), 3 * 320 + 7 * 320 + 224);
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[5].mixer).k_norm.has_value());
}

TEST(Gemma3n, WithoutSharingRowsCarryNoKeysAndValues) {
  const ModelSpec spec = SpecWith("gemma3n", "text_config.num_kv_shared_layers", "0");
  EXPECT_EQ(spec.altup->shared_kv_values, 0);
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[6].mixer).takes_kv());
}

TEST(Gemma3n, GatesAreCutOffAtQuantilesOfTheNormalDistribution) {
  const ModelSpec spec = UsualGemma3n();
  const auto cutoff = [&](size_t layer) { return DenseOf(spec.layers[layer])->gate_cutoff; };
  EXPECT_EQ(cutoff(0), 1.6448536269514722f);
  EXPECT_EQ(cutoff(1), 1.2815515655446004f);
  EXPECT_EQ(cutoff(2), 0.0f);
  EXPECT_EQ(DenseOf(SpecWith("gemma3n", "text_config.activation_sparsity_pattern",
                             "[0.5001, 0.93, 0.999, 0, 0, 0, 0]")
                        .layers[2])
                ->gate_cutoff,
            3.090232306167813f);
  EXPECT_EQ(
      DenseOf(SpecWith("gemma3n", "text_config.activation_sparsity_pattern", "").layers[0])->gate_cutoff,
      0.0f);  // The reference cuts off the first ten layers of models with more.
}

TEST(Gemma3n, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("gemma3n", "text_config.altup_active_idx", "1", "expected 0, found 1");
  ExpectConfigRefused("gemma3n", "text_config.intermediate_size", "[384, 384]",
                      "for each of 7 layers, found 2");
  ExpectConfigRefused("gemma3n", "text_config.activation_sparsity_pattern", "[0.3, 0, 0, 0, 0, 0, 0]",
                      "expected 0 or more than 0.5, found 0.3");
  ExpectConfigRefused("gemma3n", "text_config.num_kv_shared_layers", "6", "before the last 6");
  for (const char* key : {"layer_types", "hidden_size_per_layer_input", "altup_num_inputs", "laurel_rank",
                          "num_kv_shared_layers", "intermediate_size", "sliding_window"}) {
    ExpectConfigRefused("gemma3n", std::string("text_config.") + key, "", key);
  }
}

}  // namespace
}  // namespace shoal
