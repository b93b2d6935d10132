#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Granite, MatchesTheReference) { ExpectGoldensMatch("granite"); }

TEST(Granite, ItsMultipliersScaleEmbeddingsResidualsScoresAndLogits) {
  const ModelSpec spec = SpecWith("granite", "mlp_bias", "true");
  EXPECT_EQ(spec.embedding_scale, 12.0f);
  EXPECT_EQ(spec.logits_scale, 0.125f);
  EXPECT_EQ(spec.layers[6].residual_scale, 0.22f);
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[6].mixer).scale, 0.1);
  EXPECT_TRUE(DenseOf(spec.layers[0])->up.bias.has_value());
}

TEST(Granite, AMultiplierThatIsAbsentIsOne) {
  const ModelSpec spec = SpecWith("granite", {{"embedding_multiplier", ""},
                                              {"residual_multiplier", ""},
                                              {"attention_multiplier", ""},
                                              {"logits_scaling", ""}});
  EXPECT_EQ(spec.embedding_scale, 1.0f);
  EXPECT_EQ(spec.logits_scale, 1.0f);
  EXPECT_EQ(spec.layers[0].residual_scale, 1.0f);
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).scale, 1.0);
  ExpectConfigRefused("granite", "logits_scaling", "0", "logits_scaling");
}

}  // namespace
}  // namespace shoal
