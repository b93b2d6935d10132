#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Glm4, MatchesTheReference) { ExpectGoldensMatch("glm4"); }

TEST(Glm4, RotatesNeighboursInTheFirstHalfOfAHead) {
  const ModelSpec spec = SpecWith("glm4", "head_dim", "32");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_EQ(gqa.rope.dims, 16);
  EXPECT_EQ(gqa.rope.pairing, RopePairing::kInterleaved);
  EXPECT_TRUE(gqa.q.bias && !gqa.o.bias);
  // The reference's default for configs without the key is 0.5.
  EXPECT_EQ(std::get<GqaSpec>(SpecWith("glm4", "partial_rotary_factor", "").layers[0].mixer).rope.dims, 14);
}

TEST(Glm4, HasFourNormsALayerAndAFusedMlp) {
  const ModelSpec spec = SpecWith("glm4", "head_dim", "32");
  const LayerSpec& layer = spec.layers[4];
  EXPECT_EQ(layer.mixer_out_norm->weight.sources[0].name(), "model.layers.4.post_self_attn_layernorm.weight");
  EXPECT_EQ(layer.feed_forward_out_norm->weight.sources[0].name(),
            "model.layers.4.post_mlp_layernorm.weight");
  EXPECT_EQ(DenseOf(layer)->up.weight.sources[0].rows, (Range{384, 768}));
}

}  // namespace
}  // namespace shoal
