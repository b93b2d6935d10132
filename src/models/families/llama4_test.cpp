#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

ModelSpec UsualLlama4() { return SpecWith("llama4", "text_config.use_cache", "true"); }

TEST(Llama4, MatchesTheReference) { ExpectGoldensMatch("llama4"); }

TEST(Llama4, LayersWithoutRopeSeeEverythingAndSharpenTheirQueries) {
  const ModelSpec spec = UsualLlama4();
  for (size_t i = 0; i < 7; ++i) {
    const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[i].mixer);
    const bool rotates = i != 2 && i != 6;
    EXPECT_EQ(gqa.position_rope() != nullptr, rotates) << i;
    EXPECT_EQ(gqa.chunk.value_or(0), rotates ? 33 : 0) << i;
    EXPECT_EQ(gqa.q_norm.has_value() && gqa.norm_behind_rope, rotates) << i;
    EXPECT_EQ(gqa.temperature.beta, rotates ? 0 : 0.1) << i;
    EXPECT_EQ(gqa.temperature.interval, rotates ? 1 : 16) << i;
  }
  // Without a list every fourth, and without chunks all see everything.
  const ModelSpec other = SpecWith("llama4", {{"text_config.no_rope_layers", "[]"},
                                              {"text_config.attention_chunk_size", "null"},
                                              {"text_config.attn_temperature_tuning", "0"}});
  EXPECT_EQ(std::get<GqaSpec>(other.layers[3].mixer).position_rope(), nullptr);
  EXPECT_EQ(std::get<GqaSpec>(other.layers[3].mixer).temperature.beta, 0);
  EXPECT_NE(std::get<GqaSpec>(other.layers[2].mixer).position_rope(), nullptr);
  EXPECT_FALSE(std::get<GqaSpec>(other.layers[2].mixer).chunk.has_value());
}

TEST(Llama4, ExpertsAreInEveryNthLayerOrInThoseNamed) {
  const auto with_experts = [](const ModelSpec& spec) {
    std::vector<int> layers;
    for (int i = 0; i < 7; ++i) {
      if (MoeOf(spec.layers[static_cast<size_t>(i)]) != nullptr) layers.push_back(i);
    }
    return layers;
  };
  EXPECT_THAT(with_experts(UsualLlama4()), testing::ElementsAre(1, 3, 5));
  EXPECT_THAT(with_experts(SpecWith("llama4", "text_config.moe_layers", "[0, 6]")),
              testing::ElementsAre(0, 6));
}

TEST(Llama4, PositionsBeyondExactAnglesAreLeftOut) {
  EXPECT_EQ(SpecWith("llama4", "text_config.max_position_embeddings", "10485760").max_positions,
            static_cast<int64_t>(kTrigArgumentMax));
}

TEST(Llama4, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("llama4", "text_config.num_experts_per_tok", "2", "expected 1, found 2");
  ExpectConfigRefused("llama4", "text_config.no_rope_layers", "[1, 0]", "expected one for each of 7 layers");
  ExpectConfigRefused("llama4", "text_config.layer_types", R"(["full_attention"])", "for each of 7 layers");
  ExpectConfigRefused("llama4", "text_config.hidden_act", R"("gelu")", R"(expected "silu", found "gelu")");
  ExpectConfigRefused("llama4", "text_config.attn_temperature_tuning", R"("on")", "attn_temperature_tuning");
  for (const char* key : {"intermediate_size_mlp", "num_local_experts", "vocab_size"}) {
    ExpectConfigRefused("llama4", std::string("text_config.") + key, "", key);
  }
  ExpectConfigRefused("llama4", "text_config", "", "text_config");
}

}  // namespace
}  // namespace shoal
