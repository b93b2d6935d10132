#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen35Text, MatchesTheReference) { ExpectGoldensMatch("qwen3_5_text"); }

TEST(Qwen35Text, NamesAreThoseOfATextModelAndNormsAreZeroCentred) {
  const ModelSpec spec = SpecWith("qwen3_5_text", "use_cache", "true");
  const WeightRef& norm = spec.layers[2].mixer_norm->weight;
  ASSERT_EQ(norm.sources.size(), size_t{1});
  EXPECT_EQ(norm.sources[0].name(), "model.layers.2.input_layernorm.weight");
  EXPECT_EQ(norm.sources[0].offset, 1);
  EXPECT_EQ(std::get<GatedDeltaNetSpec>(spec.layers[0].mixer).norm.weight.sources[0].offset, 0);
}

TEST(Qwen35Text, AConfigThatSaysNothingOfItHasAHeadOfItsOwn) {
  EXPECT_FALSE(SpecWith("qwen3_5_text", "tie_word_embeddings", "").tied_head);
}

}  // namespace
}  // namespace shoal
