#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualGraniteHybrid() { return SpecWith("granitemoehybrid", "use_cache", "true"); }

TEST(GraniteMoeHybrid, MatchesTheReference) { ExpectGoldensMatch("granitemoehybrid"); }

TEST(GraniteMoeHybrid, LayersAttendWhereTheConfigSaysSoWithRopeOrWithout) {
  const ModelSpec spec = UsualGraniteHybrid();
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(std::holds_alternative<GqaSpec>(spec.layers[i].mixer), i == 2 || i == 5) << i;
  }
  EXPECT_EQ(PositionRopeOf(spec.layers[2].mixer), nullptr);
  const ModelSpec roped = SpecWith("granitemoehybrid", "position_embedding_type", R"("rope")");
  EXPECT_NE(PositionRopeOf(roped.layers[2].mixer), nullptr);
  ExpectConfigRefused("granitemoehybrid", "position_embedding_type", R"("alibi")", R"(found "alibi")");
  ExpectConfigRefused("granitemoehybrid", "layer_types", R"(["mamba"])", "for each of 7 layers");
}

TEST(GraniteMoeHybrid, WithoutExpertsTheSharedFeedForwardIsAlone) {
  EXPECT_NE(MoeOf(UsualGraniteHybrid().layers[0]), nullptr);
  const ModelSpec dense = SpecWith("granitemoehybrid", "num_local_experts", "0");
  const DenseSpec* alone = DenseOf(dense.layers[0]);
  ASSERT_NE(alone, nullptr);
  EXPECT_EQ(alone->width, 384);
  EXPECT_EQ(alone->up.weight.sources[0].rows, (Range{384, 768}));
  EXPECT_EQ(alone->up.weight.sources.back().name(), "model.layers.0.mlp.up_proj.weight");
}

TEST(GraniteMoeHybrid, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"layer_types", "mamba_n_heads", "mamba_d_state", "shared_intermediate_size"}) {
    ExpectConfigRefused("granitemoehybrid", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
