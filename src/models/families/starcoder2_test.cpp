#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Starcoder2, MatchesTheReference) { ExpectGoldensMatch("starcoder2"); }

TEST(Starcoder2, HasTwoMatricesWithoutAGateAndLayerNormsWithBiases) {
  const ModelSpec spec = SpecWith("starcoder2", "use_cache", "true");
  const DenseSpec& mlp = *DenseOf(spec.layers[3]);
  EXPECT_EQ(mlp.activation, Activation::kGelu);
  EXPECT_EQ(mlp.inputs(), std::vector<const LinearSpec*>{&mlp.up});
  EXPECT_EQ(mlp.up.bias->sources[0].name(), "model.layers.3.mlp.c_fc.bias");
  EXPECT_EQ(spec.final_norm.bias->sources[0].name(), "model.norm.bias");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[3].mixer).window, 37);
}

TEST(Starcoder2, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("starcoder2", "hidden_act", R"("gelu")", "gelu_pytorch_tanh");
  ExpectConfigRefused("starcoder2", "norm_epsilon", "", "norm_epsilon");
}

}  // namespace
}  // namespace shoal
