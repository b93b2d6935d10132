#include <gtest/gtest.h>

#include "models/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Phi3, MatchesTheReference) { ExpectGoldensMatch("phi3"); }

TEST(Phi3, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"intermediate_size", "num_key_value_heads", "rope_theta"}) {
    ExpectConfigRefused("phi3", key, "", key);
  }
}

TEST(Phi3, ProjectionsArePartsOfFusedOnes) {
  const ModelSpec spec = SpecWith("phi3", "num_key_value_heads", "4");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[2].mixer);
  const WeightSource& v = gqa.v.weight.sources[0];
  EXPECT_EQ(v.name(), "model.layers.2.self_attn.qkv_proj.weight");
  EXPECT_EQ(v.rows, (Range{400, 480}));
  EXPECT_EQ(v.stored_rows, 480);
  const WeightSource& up = std::get<DenseSpec>(spec.layers[2].feed_forward).up.weight.sources[0];
  EXPECT_EQ(up.rows, (Range{384, 768}));
  EXPECT_EQ(gqa.rope.dims, 16);
}

}  // namespace
}  // namespace shoal
