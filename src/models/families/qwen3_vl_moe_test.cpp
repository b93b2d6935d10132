#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Qwen3VlMoe, MatchesTheReference) { ExpectGoldensMatch("qwen3_vl_moe"); }

TEST(Qwen3VlMoe, TheHubsStacksHoldTheExpertsTransposed) {
  const ModelSpec spec = SpecWith("qwen3_vl_moe", "architectures", "[]");
  const DenseSpec& expert = MoeOf(spec.layers[3])->experts.at(7);
  const WeightSource& up = expert.up.weight.sources[0];
  EXPECT_EQ(up.name(), "model.language_model.layers.3.mlp.experts.gate_up_proj");
  EXPECT_EQ(up.strided->stored_shape, (std::vector<int64_t>{13, 320, 640}));
  EXPECT_EQ(up.strided->offset, 320);
  EXPECT_EQ(expert.down.weight.sources[0].strided->stored_shape, (std::vector<int64_t>{13, 320, 320}));
  EXPECT_EQ(expert.up.weight.sources[1].name(),
            "language_model.model.layers.3.mlp.switch_mlp.up_proj.weight");
  EXPECT_EQ(MoeOf(spec.layers[2]), nullptr);
}

TEST(Qwen3VlMoe, WeightsAreRenormalizedWhateverTheConfigSays) {
  const ModelSpec spec = SpecWith("qwen3_vl_moe", "text_config.norm_topk_prob", "false");
  EXPECT_EQ(MoeOf(spec.layers[3])->router.weighting, RouteWeights::kRenormalized);
}

}  // namespace
}  // namespace shoal
