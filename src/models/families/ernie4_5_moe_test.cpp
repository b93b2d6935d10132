#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Ernie45Moe, MatchesTheReference) { ExpectGoldensMatch("ernie4_5_moe"); }

TEST(Ernie45Moe, LayersBetweenStartAndEndHaveExperts) {
  const ModelSpec spec = SpecWith("ernie4_5_moe", "moe_layer_interval", "2");
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, i == 1 || i == 3 || i == 5) << i;
  EXPECT_NE(MoeOf(SpecWith("ernie4_5_moe", "moe_layer_end_index", "-1").layers[6]), nullptr);
}

TEST(Ernie45Moe, TheSelectionBiasIsAMatrixOfOneRow) {
  const MoeSpec moe = *MoeOf(SpecWith("ernie4_5_moe", "use_cache", "true").layers[1]);
  const WeightSource& bias = moe.router.selection_bias->sources[0];
  EXPECT_EQ(bias.name(), "model.layers.1.mlp.moe_statics.e_score_correction_bias");
  EXPECT_EQ(bias.strided->stored_shape, (std::vector<int64_t>{1, 13}));
  EXPECT_EQ(moe.shared->width, 640);
}

TEST(Ernie45Moe, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("ernie4_5_moe", "moe_gate", R"("top2")", "moe_gate");
  ExpectConfigRefused("ernie4_5_moe", "use_bias", "true", "use_bias");
}

}  // namespace
}  // namespace shoal
