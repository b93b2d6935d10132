#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(SolarOpen, MatchesTheReference) { ExpectGoldensMatch("solar_open"); }

TEST(SolarOpen, HasExpertsInEveryLayerAndYarn) {
  const ModelSpec spec = SpecWith("solar_open", "attention_bias", "true");
  for (const LayerSpec& layer : spec.layers) EXPECT_NE(MoeOf(layer), nullptr);
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[0].mixer);
  EXPECT_TRUE(std::holds_alternative<RopeYarn>(gqa.rope.scaling));
  EXPECT_TRUE(gqa.q.bias && !gqa.o.bias && !gqa.q_norm);
}

TEST(SolarOpen, RefusesWhatTheReferenceDoesNotRead) {
  ExpectConfigRefused("solar_open", "use_qk_norm", "true", "use_qk_norm");
  ExpectConfigRefused("solar_open", "first_k_dense_replace", "1", "first_k_dense_replace");
  ExpectConfigRefused("solar_open", "partial_rotary_factor", "0.5", "partial_rotary_factor");
}

}  // namespace
}  // namespace shoal
