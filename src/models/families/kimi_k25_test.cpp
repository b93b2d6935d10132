#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(KimiK25, MatchesTheReference) { ExpectGoldensMatch("kimi_k25"); }

TEST(KimiK25, TheTextModelIsKimiK2UnderEitherName) {
  for (const char* type : {R"("deepseek_v3")", R"("kimi_k2")", ""}) {
    const ModelSpec spec = SpecWith("kimi_k25", "text_config.model_type", type);
    EXPECT_EQ(spec.model_type, "kimi_k25");
    EXPECT_EQ(MoeOf(spec.layers[1])->router.linear.weight.sources[0].name(),
              "language_model.model.layers.1.mlp.gate.weight");
  }
  ExpectConfigRefused("kimi_k25", "text_config.model_type", R"("kimi_linear")", "found \"kimi_linear\"");
}

}  // namespace
}  // namespace shoal
