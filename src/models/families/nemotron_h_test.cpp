#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualNemotronH() { return SpecWith("nemotron_h", "use_cache", "true"); }

TEST(NemotronH, MatchesTheReference) { ExpectGoldensMatch("nemotron_h"); }

TEST(NemotronH, ALayerIsAMixerAndTheFeedForwardBehindIt) {
  const ModelSpec spec = UsualNemotronH();  // M- ME M *E M- ME M
  ASSERT_EQ(spec.layer_count(), 7);
  EXPECT_NE(DenseOf(spec.layers[0]), nullptr);
  EXPECT_NE(MoeOf(spec.layers[1]), nullptr);
  EXPECT_TRUE(std::holds_alternative<NoFeedForward>(spec.layers[2].feed_forward));
  EXPECT_FALSE(spec.layers[2].feed_forward_norm.has_value());
  EXPECT_TRUE(std::holds_alternative<GqaSpec>(spec.layers[3].mixer));
  EXPECT_EQ(PositionRopeOf(spec.layers[3].mixer), nullptr);
  EXPECT_EQ(spec.layers[3].mixer_norm->weight.sources[0].name(), "backbone.layers.5.norm.weight");
  EXPECT_EQ(spec.layers[3].feed_forward_norm->weight.sources[0].name(), "backbone.layers.6.norm.weight");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[3].mixer).q.weight.sources[0].name(),
            "backbone.layers.5.mixer.q_proj.weight");
  EXPECT_EQ(MoeOf(spec.layers[3])->experts[2].up.weight.sources[0].name(),
            "backbone.layers.6.mixer.experts.2.up_proj.weight");
  EXPECT_EQ(MoeOf(spec.layers[3])->experts[2].up.weight.sources[1].name(),
            "backbone.layers.6.mixer.switch_mlp.fc1.weight");
}

TEST(NemotronH, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  const auto refused = [](const char* pattern, const char* message) {
    ExpectConfigRefused("nemotron_h", "hybrid_override_pattern", pattern, message);
  };
  refused(R"("MM--MEM*EM-M")", "none before block 3");
  refused(R"("-MMMMEM*EM-M")", "none before block 0");
  refused(R"("MxM-MEM*EM-M")", "expected M, *, - and E alone");
  refused(R"("M-")", "expected num_hidden_layers = 12 blocks, found 2");
  ExpectConfigRefused("nemotron_h", "mlp_hidden_act", R"("silu")", R"(expected "relu2", found "silu")");
  ExpectConfigRefused("nemotron_h", "moe_latent_size", "64", "moe_latent_size");
  ExpectConfigRefused("nemotron_h", "attention_bias", "true", "attention_bias");
  for (const char* key : {"hybrid_override_pattern", "mamba_num_heads", "ssm_state_size", "n_routed_experts",
                          "moe_shared_expert_intermediate_size"}) {
    ExpectConfigRefused("nemotron_h", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
