#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Gemma4, TheTextModelLiesWhereTheHubOrMlxHasIt) {
  const ModelSpec spec = SpecWith("gemma4", "architectures", "[]");
  EXPECT_EQ(spec.model_type, "gemma4");
  const WeightRef& up = MoeOf(spec.layers[1])->experts[5].up.weight;
  ASSERT_EQ(up.sources.size(), 2u);
  EXPECT_EQ(up.sources[0].name(), "model.language_model.layers.1.experts.gate_up_proj");
  EXPECT_EQ(up.sources[0].rows, (Range{320, 640}));
  EXPECT_EQ(up.sources[1].name(), "language_model.model.layers.1.experts.switch_glu.up_proj.weight");
  EXPECT_EQ(up.sources[1].index, 5);
}

TEST(Gemma4, KeysThatTheHubLeavesOutHaveTheReferencesValues) {
  const ModelSpec spec = SpecWith("gemma4", "text_config",
                                  R"({"model_type": "gemma4_text",
      "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]})");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[1].mixer).head_dim, 512);
  EXPECT_EQ(spec.altup->layer_width, 256);
  EXPECT_EQ(spec.altup->layer_embedding.shape, (std::vector<int64_t>{262144, 512}));
  EXPECT_EQ(spec.altup->layer_embedding.sources[0].name(),
            "model.language_model.embed_tokens_per_layer.weight");
  EXPECT_EQ(spec.altup->shared_kv_values, 0);
  ExpectConfigRefused("gemma4", "text_config", R"({"model_type": "llama"})", "gemma4_text");
}

}  // namespace
}  // namespace shoal
