#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;

ModelSpec Usual() { return SpecWith("qwen3_5", "text_config.use_cache", "true"); }

TEST(Qwen35, MatchesTheReference) { ExpectGoldensMatch("qwen3_5"); }

TEST(Qwen35, EveryLayerHasADenseBlockBelowTheLanguageModel) {
  const ModelSpec spec = Usual();
  for (const LayerSpec& layer : spec.layers) {
    const DenseSpec* dense = DenseOf(layer);
    ASSERT_NE(dense, nullptr);
    EXPECT_EQ(dense->width, 384);
  }
  const WeightRef& up = std::get<DenseSpec>(spec.layers[0].feed_forward).up.weight;
  std::vector<std::string> names;
  for (const WeightSource& source : up.sources) names.push_back(source.name());
  EXPECT_THAT(names, ElementsAre("model.language_model.layers.0.mlp.up_proj.weight",
                                 "language_model.model.layers.0.mlp.up_proj.weight"));
}

TEST(Qwen35, TheHeadIsTiedWhereEitherConfigSaysSo) {
  constexpr char kText[] = "text_config.tie_word_embeddings";
  EXPECT_FALSE(Usual().tied_head);
  EXPECT_TRUE(SpecWith("qwen3_5", kText, "true").tied_head);
  EXPECT_TRUE(SpecWith("qwen3_5", {{kText, ""}, {"tie_word_embeddings", "true"}}).tied_head);
}

TEST(Qwen35, TheHeadForMultiTokenPredictionAttendsAndHasTheModelsNorms) {
  const auto with = [](const char* key, const char* value) {
    return SpecWith("qwen3_5", {{"text_config.mtp_num_hidden_layers", "1"}, {key, value}}).mtp;
  };
  EXPECT_FALSE(Usual().mtp.has_value());
  EXPECT_FALSE(with("text_config.mtp_use_dedicated_embeddings", "true").has_value());
  const auto mtp = with("text_config.mtp_use_dedicated_embeddings", "false");
  ASSERT_TRUE(mtp.has_value());
  EXPECT_TRUE(std::get<GqaSpec>(mtp->layer.mixer).output_gate);
  EXPECT_TRUE(std::holds_alternative<DenseSpec>(mtp->layer.feed_forward));
  EXPECT_EQ(mtp->projection.weight.sources[0].name(), "mtp.fc.weight");
  EXPECT_EQ(mtp->layer.mixer_norm->weight.sources[0].name(), "mtp.layers.0.input_layernorm.weight");
  for (const NormSpec* norm :
       {&mtp->embedding_norm, &mtp->hidden_norm, &*mtp->layer.mixer_norm, &mtp->norm}) {
    EXPECT_EQ(norm->weight.sources[0].offset, 1);
  }
}

TEST(Qwen35, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("qwen3_5", "text_config.attn_output_gate", "false", "expected true, found false");
  ExpectConfigRefused("qwen3_5", "text_config.intermediate_size", "", "intermediate_size");
  ExpectConfigRefused("qwen3_5", "text_config", "", "text_config");
}

}  // namespace
}  // namespace shoal
