#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(ExaoneMoe, MatchesTheReference) { ExpectGoldensMatch("exaone_moe"); }

TEST(ExaoneMoe, FindsTheSelectionBiasBesideTheRouterOrBelowIt) {
  const ModelSpec spec = SpecWith("exaone_moe", "use_cache", "true");
  EXPECT_EQ(MoeOf(spec.layers[0]), nullptr);
  const std::vector<WeightSource>& places = MoeOf(spec.layers[1])->router.selection_bias->sources;
  EXPECT_EQ(places[0].name(), "model.layers.1.mlp.e_score_correction_bias");
  EXPECT_EQ(places[1].name(), "model.layers.1.mlp.gate.e_score_correction_bias");
}

TEST(ExaoneMoe, WithoutTypesTheFirstLayersAreDense) {
  const ModelSpec spec = SpecWith("exaone_moe", {{"mlp_layer_types", ""}, {"first_k_dense_replace", "2"}});
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, i >= 2) << i;
  ExpectConfigRefused("exaone_moe", "mlp_layer_types", R"(["dense"])", "mlp_layer_types");
}

TEST(ExaoneMoe, OnlyLayersWithAWindowRotate) {
  const ModelSpec spec = SpecWith("exaone_moe", "use_cache", "true");
  EXPECT_NE(PositionRopeOf(spec.layers[2].mixer), nullptr);
  EXPECT_EQ(PositionRopeOf(spec.layers[3].mixer), nullptr);
}

}  // namespace
}  // namespace shoal
