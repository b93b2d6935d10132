#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen2, MatchesTheReference) { ExpectGoldensMatch("qwen2"); }

TEST(Qwen2, BiasesQueriesKeysAndValuesOnly) {
  const ModelSpec spec = SpecWith("qwen2", "head_dim", "32");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[6].mixer);
  EXPECT_TRUE(gqa.q.bias && gqa.k.bias && gqa.v.bias);
  EXPECT_FALSE(gqa.o.bias.has_value());
  EXPECT_EQ(gqa.head_dim, 32);
}

TEST(Qwen2, WindowsBeginAtTheLayerThatTheConfigSays) {
  const ModelSpec spec = SpecWith("qwen2", "max_window_layers", "6");
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[5].mixer).window.has_value());
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[6].mixer).window, 40);
}

TEST(Qwen2, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_key_value_heads", "max_window_layers"}) {
    ExpectConfigRefused("qwen2", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
