#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen3Vl, MatchesTheReference) { ExpectGoldensMatch("qwen3_vl"); }

TEST(Qwen3Vl, TheTextModelIsQwen3WithPlainRope) {
  const ModelSpec spec = SpecWith("qwen3_vl", "architectures", "[]");
  EXPECT_EQ(spec.model_type, "qwen3_vl");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_TRUE(gqa.q_norm && gqa.k_norm);
  EXPECT_TRUE(std::holds_alternative<RopeUnscaled>(gqa.rope.scaling));
  EXPECT_EQ(gqa.q.weight.sources[0].name(), "model.language_model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(gqa.q.weight.sources[1].name(), "language_model.model.layers.0.self_attn.q_proj.weight");
  ExpectConfigRefused("qwen3_vl", "text_config.model_type", R"("qwen3")", "qwen3_vl_text");
}

}  // namespace
}  // namespace shoal
