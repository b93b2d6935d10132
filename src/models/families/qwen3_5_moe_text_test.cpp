#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen35MoeText, HasTheBitsOfTheModelAroundIt) { ExpectTheTextModelAloneHasTheSameBits("qwen3_5_moe"); }

TEST(Qwen35MoeText, NamesAreThoseOfATextModel) {
  const ModelSpec spec = SpecWith("qwen3_5_moe_text", "use_cache", "true");
  EXPECT_EQ(MoeOf(spec.layers[1])->experts[2].up.weight.sources[0].name(),
            "model.layers.1.mlp.experts.gate_up_proj");
  ExpectConfigRefused("qwen3_5_moe_text", "mlp_only_layers", "[1]", "experts in every layer");
}

}  // namespace
}  // namespace shoal
