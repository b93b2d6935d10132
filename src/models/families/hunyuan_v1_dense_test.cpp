#include <gtest/gtest.h>

#include <cmath>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(HunyuanV1Dense, MatchesTheReference) { ExpectGoldensMatch("hunyuan_v1_dense"); }

TEST(HunyuanV1Dense, NormsQueriesAndKeysBehindRope) {
  const ModelSpec spec = SpecWith("hunyuan_v1_dense", "attention_bias", "true");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_TRUE(gqa.norm_behind_rope);
  EXPECT_EQ(gqa.k_norm->weight.sources[0].name(), "model.layers.1.self_attn.key_layernorm.weight");
  EXPECT_TRUE(gqa.o.bias.has_value());
}

TEST(HunyuanV1Dense, AlphaStretchesTheta) {
  const auto theta = [](std::string_view rope) {
    return std::get<GqaSpec>(SpecWith("hunyuan_v1_dense", "rope_scaling", rope).layers[0].mixer).rope.theta;
  };
  EXPECT_NEAR(theta(R"({"type": "dynamic", "alpha": 1000.0})"), 1e4 * std::pow(1000.0, 28.0 / 26), 1e-3);
  EXPECT_EQ(theta("null"), 1e4);
  ExpectConfigRefused("hunyuan_v1_dense", "rope_scaling", R"({"type": "dynamic", "factor": 2.0})", "dynamic");
  ExpectConfigRefused("hunyuan_v1_dense", "rope_scaling", R"({"type": "linear", "alpha": 2.0})", "alpha");
}

TEST(HunyuanV1Dense, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("hunyuan_v1_dense", "use_cla", "true", "use_cla");
  ExpectConfigRefused("hunyuan_v1_dense", "use_qk_norm", "false", "use_qk_norm");
}

}  // namespace
}  // namespace shoal
