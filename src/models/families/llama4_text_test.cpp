#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Llama4Text, HasTheBitsOfTheModelAroundIt) { ExpectTheTextModelAloneHasTheSameBits("llama4"); }

TEST(Llama4Text, NamesAreThoseOfATextModel) {
  const ModelSpec spec = SpecWith("llama4_text", "floor_scale", "");
  EXPECT_EQ(MoeOf(spec.layers[1])->experts[2].up.weight.sources[0].name(),
            "model.layers.1.feed_forward.experts.gate_up_proj");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[2].mixer).temperature.interval, 8192);
}

}  // namespace
}  // namespace shoal
