#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

// As google/gemma-3-4b-it says it.
TEST(Gemma3, KeysThatTheHubLeavesOutHaveTheReferencesValues) {
  const ModelSpec spec =
      SpecWith("gemma3", "text_config",
               R"({"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
      "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024})");
  const GqaSpec& local = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_EQ(local.heads, 8);
  EXPECT_EQ(local.window, 1024);
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[5].mixer).window.has_value());
  EXPECT_TRUE(spec.tied_head);
  EXPECT_EQ(spec.layers[0].mixer_norm->weight.sources[0].name(),
            "model.language_model.layers.0.input_layernorm.weight");
  EXPECT_EQ(spec.layers[0].mixer_norm->weight.sources[1].name(),
            "language_model.model.layers.0.input_layernorm.weight");
}

}  // namespace
}  // namespace shoal
