#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "compute/blocks/norm_rope.h"
#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen3, MatchesTheReference) { ExpectGoldensMatch("qwen3"); }

TEST(Qwen3, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "intermediate_size", "model_type"}) {
    ExpectConfigRefused("qwen3", key, "", key);
  }
}

TEST(Qwen3, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("qwen3", "hidden_act", R"("gelu")", "expected \"silu\", found \"gelu\"");
  ExpectConfigRefused("qwen3", "use_sliding_window", "true", "'max_window_layers'");
  ExpectConfigRefused("qwen3", "layer_types", R"(["full_attention"])", "one for each of 7 layers, found 1");
  ExpectConfigRefused("qwen3", {{"num_hidden_layers", "1"}, {"layer_types", R"(["linear_attention"])"}},
                      R"(expected "full_attention" or "sliding_attention", found "linear_attention")");
  ExpectConfigRefused("qwen3", {{"num_hidden_layers", "1"}, {"layer_types", R"(["sliding_attention"])"}},
                      "'sliding_window'");
  ExpectConfigRefused("qwen3", "rope_scaling", R"({"rope_type": "dynamic", "factor": 4.0})",
                      R"("linear", "llama3", "longrope", "proportional" or "yarn", found "dynamic")");
  ExpectConfigRefused("qwen3", "partial_rotary_factor", "0.5", "partial_rotary_factor");
  ExpectConfigRefused("qwen3", "head_dim", "1024", "1024 exceeds 576");
  ExpectConfigRefused("qwen3", "max_position_embeddings", "100000000", "positions exceed");
}

TEST(Qwen3, RefusesSizesThatCannotBe) {
  ExpectConfigRefused("qwen3", "num_key_value_heads", "3", "divisor of num_attention_heads = 16");
  ExpectConfigRefused("qwen3", "head_dim", "21", "even");
  ExpectConfigRefused("qwen3", "num_hidden_layers", "0", "num_hidden_layers");
  ExpectConfigRefused("qwen3", "num_hidden_layers", "2000000000", "num_hidden_layers");
  ExpectConfigRefused("qwen3", "rms_norm_eps", "-1", "rms_norm_eps");
}

TEST(Qwen3, ATiedHeadIsTheEmbedding) {
  EXPECT_EQ(SpecWith("qwen3", "tie_word_embeddings", "true").head.weight.sources[0].name(),
            "model.embed_tokens.weight");
  EXPECT_EQ(SpecWith("qwen3", "tie_word_embeddings", "false").head.weight.sources[0].name(),
            "lm_head.weight");
}

std::vector<std::optional<int64_t>> Windows(const ModelSpec& spec) {
  std::vector<std::optional<int64_t>> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(std::get<GqaSpec>(layer.mixer).window);
  return windows;
}

TEST(Qwen3, LayersHaveTheWindowThatTypesOrFlagSay) {
  using Expected = std::vector<std::optional<int64_t>>;
  EXPECT_EQ(Windows(SpecWith("qwen3", {{"sliding_window", "64"}})), Expected(7));
  EXPECT_EQ(Windows(SpecWith("qwen3", {{"num_hidden_layers", "3"},
                                       {"use_sliding_window", "true"},
                                       {"sliding_window", "64"},
                                       {"max_window_layers", "2"}})),
            (Expected{std::nullopt, std::nullopt, 64}));
  EXPECT_EQ(Windows(SpecWith("qwen3", {{"num_hidden_layers", "2"},
                                       {"sliding_window", "64"},
                                       {"layer_types", R"(["sliding_attention", "full_attention"])"}})),
            (Expected{64, std::nullopt}));
}

TEST(Qwen3, YarnKeepsFastFrequenciesStretchesSlowOnesAndTurnsUpTheMagnitude) {
  const auto rope = [](const char* scaling) {
    return std::get<GqaSpec>(
               SpecWith("qwen3", {{"head_dim", "64"}, {"rope_scaling", scaling}}).layers[0].mixer)
        .rope;
  };
  const RopeSpec yarn =
      rope(R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256})");
  const std::vector<float> plain = InverseFrequencies(rope("null"));
  const std::vector<float> scaled = InverseFrequencies(yarn);
  ASSERT_EQ(scaled.size(), 32u);
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_EQ(scaled.back(), plain.back() / 4);
  EXPECT_NEAR(yarn.magnitude, 0.1 * 1.3862943611 + 1, 1e-9);
  const RopeSpec stated = rope(
      R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "attention_factor": 1.5})");
  EXPECT_EQ(stated.magnitude, 1.5);
}

TEST(Qwen3, NormsQueriesAndKeysPerHead) {
  const ModelSpec spec = SpecWith("qwen3", "head_dim", "32");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[6].mixer);
  ASSERT_TRUE(gqa.q_norm && gqa.k_norm);
  EXPECT_EQ(gqa.q_norm->weight.shape, std::vector<int64_t>{32});
  EXPECT_EQ(gqa.k_norm->weight.sources[0].name(), "model.layers.6.self_attn.k_norm.weight");
}

}  // namespace
}  // namespace shoal
