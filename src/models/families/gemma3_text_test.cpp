#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Gemma3Text, MatchesTheReference) { ExpectGoldensMatch("gemma3_text"); }

TEST(Gemma3Text, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"query_pre_attn_scalar", "rope_local_base_freq", "sliding_window", "head_dim"}) {
    ExpectConfigRefused("gemma3_text", key, "", key);
  }
}

TEST(Gemma3Text, LocalLayersHaveAWindowAndARopeOfTheirOwn) {
  const ModelSpec spec = SpecWith("gemma3_text", "sliding_window_pattern", "2");
  const GqaSpec& local = std::get<GqaSpec>(spec.layers[0].mixer);
  const GqaSpec& global = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(local.window, 33);
  EXPECT_EQ(local.rope.theta, 10000.0);
  EXPECT_TRUE(std::holds_alternative<RopeUnscaled>(local.rope.scaling));
  EXPECT_FALSE(global.window.has_value());
  EXPECT_EQ(global.rope.theta, 1000000.0);
  EXPECT_TRUE(std::holds_alternative<RopeLinear>(global.rope.scaling));
}

TEST(Gemma3Text, NewerConfigsHaveARopeForEachTypeOfLayer) {
  const ModelSpec spec =
      SpecWith("gemma3_text",
               {{"rope_theta", ""},
                {"rope_scaling", ""},
                {"rope_local_base_freq", ""},
                {"rope_parameters", R"({"sliding_attention": {"rope_type": "default", "rope_theta": 20000},
                               "full_attention": {"rope_type": "linear", "factor": 4, "rope_theta": 5000000}})"}});
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).rope.theta, 20000.0);
  EXPECT_EQ(std::get<RopeLinear>(std::get<GqaSpec>(spec.layers[2].mixer).rope.scaling).factor, 4.0);
}

TEST(Gemma3Text, ScalesEmbeddingsAsTheirPrecisionGivesIt) {
  EXPECT_EQ(SpecWith("gemma3_text", "hidden_size", "1152").embedding_scale, 34.0f);  // Of 33.94 in bf16.
}

TEST(Gemma3Text, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("gemma3_text", "hidden_activation", R"("silu")",
                      R"(expected "gelu_pytorch_tanh", found "silu")");
  ExpectConfigRefused("gemma3_text", "attn_logit_softcapping", "0", "attn_logit_softcapping");
}

}  // namespace
}  // namespace shoal
