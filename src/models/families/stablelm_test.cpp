#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Stablelm, MatchesTheReference) { ExpectGoldensMatch("stablelm"); }

TEST(Stablelm, EachHeadHasALayerNormOfItsOwn) {
  const ModelSpec spec = SpecWith("stablelm", "use_cache", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[1].mixer);
  ASSERT_EQ(gqa.q_head_norms.size(), 16u);
  ASSERT_EQ(gqa.k_head_norms.size(), 2u);
  EXPECT_EQ(gqa.q_head_norms[15].weight.sources[0].name(),
            "model.layers.1.self_attn.q_layernorm.norms.15.weight");
  EXPECT_TRUE(gqa.q_head_norms[15].centered && !gqa.q_head_norms[15].bias);
  EXPECT_TRUE(
      std::get<GqaSpec>(SpecWith("stablelm", "qk_layernorm", "").layers[1].mixer).q_head_norms.empty());
}

TEST(Stablelm, IsParallelOnlyWhereTheConfigSays) {
  EXPECT_TRUE(SpecWith("stablelm", "use_cache", "true").layers[0].parallel);
  const ModelSpec sequential = SpecWith("stablelm", "use_parallel_residual", "false");
  EXPECT_FALSE(sequential.layers[0].parallel);
  EXPECT_TRUE(sequential.layers[0].feed_forward_norm->bias.has_value());
}

TEST(Stablelm, RotatesAQuarterWhenTheConfigIsSilent) {
  const ModelSpec spec = SpecWith("stablelm", {{"partial_rotary_factor", ""}, {"num_attention_heads", "8"}});
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).rope.dims, 10);
}

}  // namespace
}  // namespace shoal
