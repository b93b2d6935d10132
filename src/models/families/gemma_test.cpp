#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Gemma, MatchesTheReference) { ExpectGoldensMatch("gemma"); }

TEST(Gemma, HasTwoZeroCentredNormsALayerAndATiedHead) {
  const ModelSpec spec = SpecWith("gemma", "head_dim", "256");
  const LayerSpec& layer = spec.layers[3];
  EXPECT_EQ(layer.mixer_norm->weight.sources[0].offset, 1);
  EXPECT_EQ(layer.feed_forward_norm->weight.sources[0].name(),
            "model.layers.3.post_attention_layernorm.weight");
  EXPECT_EQ(layer.feed_forward_norm->weight.sources[0].offset, 1);
  EXPECT_FALSE(layer.mixer_out_norm || layer.feed_forward_out_norm);
  EXPECT_TRUE(spec.tied_head);
  EXPECT_EQ(DenseOf(layer)->gating, Gating::kGelu);
}

TEST(Gemma, TakesBothNamesOfItsActivationAndNoOther) {
  for (const char* name : {R"("gelu")", R"("gelu_pytorch_tanh")", "null"}) {
    EXPECT_EQ(SpecWith("gemma", "hidden_act", name).layer_count(), 7);
  }
  ExpectConfigRefused("gemma", "hidden_act", R"("silu")", R"(expected "gelu_pytorch_tanh", found "silu")");
  ExpectConfigRefused("gemma", "use_bidirectional_attention", "true", "use_bidirectional_attention");
}

}  // namespace
}  // namespace shoal
