#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Apertus, MatchesTheReference) { ExpectGoldensMatch("apertus"); }

TEST(Apertus, HasNoGateAndAnActivationWithWeights) {
  const ModelSpec spec = SpecWith("apertus", "use_cache", "true");
  const DenseSpec& mlp = *DenseOf(spec.layers[5]);
  EXPECT_EQ(mlp.activation, Activation::kXielu);
  EXPECT_EQ(mlp.xielu->alpha_n.sources[0].name(), "model.layers.5.mlp.act_fn.alpha_n");
  EXPECT_EQ(spec.layers[5].mixer_norm->weight.sources[0].name(), "model.layers.5.attention_layernorm.weight");
}

TEST(Apertus, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("apertus", "hidden_act", R"("silu")", "xielu");
  ExpectConfigRefused("apertus", "post_norm", "true", "post_norm");
}

}  // namespace
}  // namespace shoal
