#include <gtest/gtest.h>

#include <cmath>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Afmoe, MatchesTheReference) { ExpectGoldensMatch("afmoe"); }

TEST(Afmoe, GatesWhatAttentionGivesByAProjectionOfItsOwn) {
  const ModelSpec spec = SpecWith("afmoe", "use_cache", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_EQ(gqa.gate->weight.sources[0].name(), "model.layers.0.self_attn.gate_proj.weight");
  EXPECT_EQ(gqa.gate->weight.shape, (std::vector<int64_t>{16 * 28, 320}));
}

TEST(Afmoe, HasFourNormsALayerAndScaledEmbeddings) {
  const ModelSpec spec = SpecWith("afmoe", "use_cache", "true");
  EXPECT_EQ(spec.layers[2].feed_forward_norm->weight.sources[0].name(),
            "model.layers.2.pre_mlp_layernorm.weight");
  EXPECT_TRUE(spec.layers[2].mixer_out_norm && spec.layers[2].feed_forward_out_norm);
  EXPECT_EQ(spec.embedding_scale, std::sqrt(320.0f));
  EXPECT_EQ(SpecWith("afmoe", "mup_enabled", "false").embedding_scale, 1.0f);
  EXPECT_EQ(PositionRopeOf(spec.layers[2].mixer), nullptr);
  EXPECT_EQ(MoeOf(spec.layers[1])->router.selection_bias->sources[0].name(),
            "model.layers.1.mlp.expert_bias");
}

TEST(Afmoe, RefusesWhatTheReferenceDoesNotRead) {
  ExpectConfigRefused("afmoe", "n_group", "2", "n_group");
  ExpectConfigRefused("afmoe", "route_norm", "false", "route_norm");
}

}  // namespace
}  // namespace shoal
