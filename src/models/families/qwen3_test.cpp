#include <gtest/gtest.h>

#include "models/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen3, MatchesTheReference) { ExpectGoldensMatch("qwen3"); }

TEST(Qwen3, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings",
                          "rms_norm_eps", "rope_theta", "tie_word_embeddings", "hidden_act", "model_type"}) {
    ExpectConfigRefused("qwen3", key, "", key);
  }
}

TEST(Qwen3, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("qwen3", "hidden_act", R"("gelu")", "expected \"silu\", found \"gelu\"");
  ExpectConfigRefused("qwen3", "use_sliding_window", "true", "'use_sliding_window'");
  ExpectConfigRefused("qwen3", "layer_types", R"(["sliding_attention"])", "sliding_attention");
  ExpectConfigRefused("qwen3", "rope_scaling", R"({"rope_type": "yarn", "factor": 4.0})", "yarn");
  ExpectConfigRefused("qwen3", "rope_scaling", R"({"type": "linear", "factor": 4.0})", "linear");
  ExpectConfigRefused("qwen3", "head_dim", "1024", "1024 exceeds 512");
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

TEST(Qwen3, NormsQueriesAndKeysPerHead) {
  const ModelSpec spec = SpecWith("qwen3", "head_dim", "32");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[6].mixer);
  ASSERT_TRUE(gqa.q_norm && gqa.k_norm);
  EXPECT_EQ(gqa.q_norm->weight.shape, std::vector<int64_t>{32});
  EXPECT_EQ(gqa.k_norm->weight.sources[0].name(), "model.layers.6.self_attn.k_norm.weight");
}

}  // namespace
}  // namespace shoal
