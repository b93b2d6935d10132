#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualLfm2() { return SpecWith("lfm2", "use_cache", "true"); }

TEST(Lfm2, MatchesTheReference) { ExpectGoldensMatch("lfm2"); }

TEST(Lfm2, LayersAttendWhereTheConfigSaysSo) {
  const auto attending = [](const ModelSpec& spec) {
    std::vector<int> layers;
    for (int i = 0; i < 7; ++i) {
      if (std::holds_alternative<GqaSpec>(spec.layers[static_cast<size_t>(i)].mixer)) layers.push_back(i);
    }
    return layers;
  };
  EXPECT_THAT(attending(UsualLfm2()), testing::ElementsAre(2, 4));
  EXPECT_THAT(attending(SpecWith("lfm2", {{"layer_types", ""}, {"full_attn_idxs", "[0, 3]"}})),
              testing::ElementsAre(0, 3));
  EXPECT_THAT(attending(SpecWith("lfm2", "layer_types", "")), testing::ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST(Lfm2, FeedForwardsAreAsWideAsTheReferenceMakesThem) {
  const auto ffn = [](const ConfigEdits& edits) { return DenseOf(SpecWith("lfm2", edits).layers[0])->width; };
  EXPECT_EQ(ffn({{"use_cache", "true"}}), 384);  // 2/3 of 384, times 1.5.
  EXPECT_EQ(ffn({{"block_auto_adjust_ff_dim", "false"}}), 384);
  EXPECT_EQ(ffn({{"block_ffn_dim_multiplier", ""}, {"block_multiple_of", ""}}), 256);
  EXPECT_EQ(ffn({{"block_ff_dim", "1000"}}), 1024);  // 666 * 1.5 = 999.
}

TEST(Lfm2, TheHeadIsTiedUnlessTheConfigSaysOtherwise) {
  EXPECT_TRUE(UsualLfm2().tied_head);
  EXPECT_TRUE(SpecWith("lfm2", "tie_embedding", "").tied_head);
  EXPECT_FALSE(SpecWith("lfm2", "tie_embedding", "false").tied_head);
  EXPECT_FALSE(SpecWith("lfm2", {{"tie_embedding", ""}, {"tie_word_embeddings", "false"}}).tied_head);
}

TEST(Lfm2, ConvolutionsHaveTheShapeOfTheHubOrOfMlx) {
  const ModelSpec spec = UsualLfm2();
  const ShortConvSpec& conv = std::get<ShortConvSpec>(spec.layers[0].mixer);
  ASSERT_EQ(conv.conv.sources.size(), 2u);
  EXPECT_THAT(conv.conv.sources[0].strided->stored_shape, testing::ElementsAre(320, 1, 3));
  EXPECT_THAT(conv.conv.sources[1].strided->stored_shape, testing::ElementsAre(320, 3, 1));
  EXPECT_TRUE(conv.bias.has_value() && conv.in.bias.has_value() && conv.o.bias.has_value());
  EXPECT_EQ(conv.state_values(), 2 * 320);
}

TEST(Lfm2, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("lfm2", "layer_types", R"(["conv"])", "expected one for each of 7 layers, found 1");
  ExpectConfigRefused("lfm2", "layer_types",
                      R"(["conv", "conv", "conv", "conv", "conv", "conv", "sliding_attention"])",
                      R"(expected "full_attention" or "conv", found "sliding_attention")");
  ExpectConfigRefused("lfm2", {{"layer_types", ""}, {"full_attn_idxs", "[7]"}}, "full_attn_idxs");
  for (const char* key : {"conv_L_cache", "intermediate_size"}) {
    ExpectConfigRefused("lfm2", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
