#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Gemma3nText, HasTheBitsOfTheModelAroundIt) { ExpectTheTextModelAloneHasTheSameBits("gemma3n"); }

TEST(Gemma3nText, NamesAreThoseOfATextModel) {
  const ModelSpec spec = SpecWith("gemma3n_text", "altup_correct_scale", "");
  EXPECT_EQ(spec.layers[1].altup->output_scale->sources[0].name(),
            "model.layers.1.altup.correct_output_scale");
  ASSERT_EQ(spec.altup->spread[1].weight.sources.size(), 2u);
  EXPECT_EQ(spec.altup->spread[1].weight.sources[0].name(), "model.altup_projections.1.weight");
  EXPECT_EQ(spec.altup->spread[1].weight.sources[1].name(), "model.altup_projections.weight");  // Of a GGUF.
  EXPECT_EQ(spec.altup->spread[1].weight.sources[1].index, 1);
}

}  // namespace
}  // namespace shoal
