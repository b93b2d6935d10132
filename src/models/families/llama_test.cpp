#include <gtest/gtest.h>

#include "compute/blocks/norm_rope.h"
#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

const GqaSpec& FirstAttention(const ModelSpec& spec) { return std::get<GqaSpec>(spec.layers.at(0).mixer); }

TEST(Llama, MatchesTheReference) { ExpectGoldensMatch("llama"); }

TEST(Llama, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key :
       {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}) {
    ExpectConfigRefused("llama", key, "", key);
  }
}

TEST(Llama, TakesTheHeadDimensionFromTheConfigOrAsTheReferenceDerivesIt) {
  EXPECT_EQ(FirstAttention(SpecWith("llama", "head_dim", "")).head_dim, 320 / 16);
  EXPECT_EQ(FirstAttention(SpecWith("llama", "head_dim", "64")).head_dim, 64);
  ExpectConfigRefused("llama", "hidden_size", "330", "even multiple of num_attention_heads = 16");
}

TEST(Llama, HasTheBiasesThatTheConfigNames) {
  EXPECT_TRUE(FirstAttention(SpecWith("llama", "attention_bias", "true")).o.bias.has_value());
  EXPECT_FALSE(FirstAttention(SpecWith("llama", "attention_bias", "false")).o.bias.has_value());
  EXPECT_FALSE(FirstAttention(SpecWith("llama", "attention_bias", "")).q.bias.has_value());
  EXPECT_TRUE(std::get<DenseSpec>(SpecWith("llama", "mlp_bias", "true").layers[0].feed_forward)
                  .down.bias.has_value());
  EXPECT_FALSE(
      std::get<DenseSpec>(SpecWith("llama", "mlp_bias", "false").layers[0].feed_forward).up.bias.has_value());
  ExpectConfigRefused("llama", "attention_bias", "1", "true or false");
}

TEST(Llama, ReadsRopeFromEitherPlace) {
  const RopeSpec scaled = FirstAttention(SpecWith("llama", "head_dim", "64")).rope;
  EXPECT_EQ(scaled.theta, 500000.0);
  EXPECT_TRUE(std::holds_alternative<RopeLlama3>(scaled.scaling));
  const RopeSpec plain = FirstAttention(SpecWith("llama", "rope_scaling", "null")).rope;
  EXPECT_TRUE(std::holds_alternative<RopeUnscaled>(plain.scaling));
  const RopeSpec newer = FirstAttention(SpecWith("llama", "rope_parameters",
                                                 R"({"rope_type": "default", "rope_theta": 500000.0})"))
                             .rope;
  EXPECT_TRUE(std::holds_alternative<RopeUnscaled>(newer.scaling));
  ExpectConfigRefused("llama", "rope_parameters", R"({"rope_type": "default", "rope_theta": 7.0})",
                      "rope_theta");
}

TEST(Llama, RefusesRopeScalingsThatAreNotBuilt) {
  ExpectConfigRefused(
      "llama", "rope_scaling", R"({"type": "dynamic", "factor": 2.0})",
      R"(expected "default", "linear", "llama3", "longrope", "proportional" or "yarn", found "dynamic")");
  ExpectConfigRefused("llama", "rope_scaling", R"({"rope_type": "llama3", "factor": 8.0})",
                      "low_freq_factor");
  ExpectConfigRefused(
      "llama", "rope_scaling",
      R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 5.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 64})",
      "high_freq_factor");
  ExpectConfigRefused("llama", "partial_rotary_factor", "0.5", "partial_rotary_factor");
  ExpectConfigRefused("llama", "sliding_window", "4096", "sliding_window");
}

TEST(Llama, Llama3RopeKeepsFastFrequenciesAndStretchesSlowOnes) {
  const RopeSpec scaled = FirstAttention(SpecWith("llama", "head_dim", "64")).rope;
  const RopeSpec plain = FirstAttention(SpecWith("llama", "rope_scaling", "null")).rope;
  RopeSpec wide = plain;
  wide.dims = 64;
  const std::vector<float> stretched = InverseFrequencies(scaled);
  const std::vector<float> straight = InverseFrequencies(wide);
  ASSERT_EQ(stretched.size(), 32u);
  ASSERT_EQ(straight.size(), 32u);
  EXPECT_EQ(stretched.front(), straight.front());
  EXPECT_EQ(stretched.back(), straight.back() / 8);
  for (size_t i = 0; i < stretched.size(); ++i) {
    EXPECT_LE(stretched[i], straight[i]);
    EXPECT_GE(stretched[i], straight[i] / 8);
  }
}

}  // namespace
}  // namespace shoal
