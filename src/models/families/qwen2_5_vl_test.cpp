#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;

TEST(Qwen25Vl, MatchesTheReference) { ExpectGoldensMatch("qwen2_5_vl"); }

TEST(Qwen25Vl, TheTextModelsKeysStandAmongTheOthersOrInAConfigOfTheirOwn) {
  const ModelSpec flat = SpecWith("qwen2_5_vl", "tie_word_embeddings", "true");
  const ModelSpec nested = SpecWith("qwen2_5_vl", {{"tie_word_embeddings", "true"}, {"text_config", R"({
      "model_type": "qwen2_5_vl_text", "vocab_size": 331, "hidden_size": 320, "num_hidden_layers": 7,
      "num_attention_heads": 16, "num_key_value_heads": 2, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6,
      "intermediate_size": 384, "hidden_act": "silu",
      "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [4, 3, 3]}})"}});
  for (const ModelSpec* spec : {&flat, &nested}) {
    EXPECT_EQ(spec->model_type, "qwen2_5_vl");
    EXPECT_TRUE(spec->tied_head);
    const GqaSpec& gqa = std::get<GqaSpec>(spec->layers[5].mixer);
    EXPECT_TRUE(gqa.q.bias && !gqa.o.bias && !gqa.window);
    EXPECT_EQ(gqa.rope.theta, 1000000.0);
    EXPECT_TRUE(std::holds_alternative<RopeUnscaled>(gqa.rope.scaling));
  }
}

TEST(Qwen25Vl, TensorsHaveTheNamesOfATextModelOrThoseBelowALanguageModel) {
  const ModelSpec spec = SpecWith("qwen2_5_vl", "use_cache", "true");
  std::vector<std::string> names;
  for (const WeightSource& source : spec.final_norm.weight.sources) names.push_back(source.name());
  EXPECT_THAT(names, ElementsAre("model.norm.weight", "model.language_model.norm.weight",
                                 "language_model.model.norm.weight"));
}

}  // namespace
}  // namespace shoal
