#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(Step3p5, MatchesTheReference) { ExpectGoldensMatch("step3p5"); }

TEST(Step3p5, HeadsAndRopesDifferFromLayerToLayer) {
  const ModelSpec spec = SpecWith("step3p5", "use_cache", "true");
  const GqaSpec& full = std::get<GqaSpec>(spec.layers[0].mixer);
  const GqaSpec& windowed = std::get<GqaSpec>(spec.layers[1].mixer);
  EXPECT_EQ(full.heads, 16);
  EXPECT_EQ(windowed.heads, 32);
  EXPECT_EQ(windowed.gate->weight.shape, (std::vector<int64_t>{32, 320}));
  EXPECT_EQ(full.rope.dims, 10);
  EXPECT_EQ(full.rope.theta, 5e6);
  EXPECT_TRUE(std::holds_alternative<RopeLlama3>(full.rope.scaling));
  EXPECT_EQ(windowed.rope.dims, 20);
  EXPECT_EQ(windowed.window, 33);
  EXPECT_TRUE(std::holds_alternative<RopeUnscaled>(windowed.rope.scaling));
}

TEST(Step3p5, ClampsOnlyWhereALayerHasALimit) {
  const ModelSpec spec = SpecWith("step3p5", "use_cache", "true");
  EXPECT_EQ(DenseOf(spec.layers[0])->gating, Gating::kSilu);
  EXPECT_EQ(MoeOf(spec.layers[4])->experts[0].gating, Gating::kSilu);
  const MoeSpec& moe = *MoeOf(spec.layers[5]);
  EXPECT_EQ(moe.experts[12].gating, Gating::kClampedSilu);
  EXPECT_EQ(moe.experts[12].limit, 1.5f);
  EXPECT_EQ(moe.shared->limit, 0.5f);
}

TEST(Step3p5, ListsMayGoOnBehindTheLayersButNotEndBefore) {
  const ModelSpec spec = SpecWith("step3p5", "rope_theta", "[1e6, 1e4, 1e4, 1e6, 1e4, 1e4, 1e6, 7, 7]");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[6].mixer).rope.theta, 1e6);
  const ModelSpec one = SpecWith("step3p5", "rope_theta", "20000");
  EXPECT_EQ(std::get<GqaSpec>(one.layers[6].mixer).rope.theta, 2e4);
  ExpectConfigRefused("step3p5", "rope_theta", "[1e6, 1e4]", "rope_theta");
  ExpectConfigRefused("step3p5", "rope_theta", "", "rope_theta");
  ExpectConfigRefused("step3p5", "swiglu_limits", "[1, 2]", "swiglu_limits");
}

TEST(Step3p5, ReadsLayersWithExpertsAsTextOrAsAList) {
  for (const char* layers : {R"("4,6")", "[4, 6, 9]"}) {
    const ModelSpec spec = SpecWith("step3p5", "moe_layers_enum", layers);
    for (size_t i = 0; i < 7; ++i)
      EXPECT_EQ(MoeOf(spec.layers[i]) != nullptr, i == 4 || i == 6) << layers << i;
  }
  EXPECT_NE(MoeOf(SpecWith("step3p5", "moe_layers_enum", "").layers[3]), nullptr);
  ExpectConfigRefused("step3p5", "moe_layers_enum", R"("4,x")", "moe_layers_enum");
}

TEST(Step3p5, NormsAreStoredZeroCentredAndExpertsStacked) {
  const ModelSpec spec = SpecWith("step3p5", "use_cache", "true");
  EXPECT_EQ(spec.final_norm.weight.sources[0].offset, 1);
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).q_norm->weight.sources[0].offset, 1);
  const WeightSource& up = MoeOf(spec.layers[2])->experts[3].up.weight.sources[0];
  EXPECT_EQ(up.name(), "model.layers.2.moe.up_proj.weight");
  EXPECT_EQ(up.index, 3);
}

TEST(Step3p5, RefusesWhatIsNotBuiltByName) {
  ExpectConfigRefused("step3p5", "moe_router_activation", R"("softmax")", "moe_router_activation");
  ExpectConfigRefused("step3p5", "attention_other_setting.num_attention_groups", "4", "num_attention_groups");
  ExpectConfigRefused("step3p5", "sliding_window", "", "sliding_window");
}

}  // namespace
}  // namespace shoal
