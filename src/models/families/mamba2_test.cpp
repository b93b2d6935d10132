#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

ModelSpec UsualMamba2() { return SpecWith("mamba2", "use_cache", "true"); }

TEST(Mamba2, MatchesTheReference) { ExpectGoldensMatch("mamba2"); }

TEST(Mamba2, OneProjectionHasGatesThenWhatIsConvolvedThenSteps) {
  const Mamba2Spec mamba = std::get<Mamba2Spec>(UsualMamba2().layers[3].mixer);
  EXPECT_EQ(mamba.inner(), 640);
  EXPECT_EQ(mamba.channels(), 720);
  EXPECT_EQ(mamba.gate.weight.sources[0].rows, (Range{0, 640}));
  EXPECT_EQ(mamba.xbc.weight.sources[0].rows, (Range{640, 1360}));
  EXPECT_EQ(mamba.step.weight.sources[0].rows, (Range{1360, 1370}));
  EXPECT_EQ(mamba.step.weight.sources[0].stored_rows, 1370);
  EXPECT_EQ(mamba.gate.weight.sources[0].name(), "backbone.layers.3.mixer.in_proj.weight");
}

TEST(Mamba2, HasNamesOfItsOwnAndNoFeedForward) {
  const ModelSpec spec = UsualMamba2();
  EXPECT_EQ(spec.embedding.sources[0].name(), "backbone.embeddings.weight");
  EXPECT_EQ(spec.final_norm.weight.sources[0].name(), "backbone.norm_f.weight");
  EXPECT_EQ(spec.layers[2].mixer_norm->weight.sources[0].name(), "backbone.layers.2.norm.weight");
  EXPECT_FALSE(spec.layers[2].feed_forward_norm.has_value());
  EXPECT_EQ(MoeOf(spec.layers[2]), nullptr);
  EXPECT_EQ(DenseOf(spec.layers[2]), nullptr);
}

TEST(Mamba2, StepsAreBoundedAsTheConfigSays) {
  EXPECT_EQ(std::get<Mamba2Spec>(SpecWith("mamba2", "time_step_limit", "").layers[0].mixer).step_max,
            std::numeric_limits<double>::max());
  const ModelSpec spec = SpecWith("mamba2", "time_step_limit", "[0.001, 0.1]");
  EXPECT_EQ(std::get<Mamba2Spec>(spec.layers[0].mixer).step_min, 0.001);
  EXPECT_EQ(std::get<Mamba2Spec>(spec.layers[0].mixer).step_max, 0.1);
}

TEST(Mamba2, WhatIsNotBuiltIsRefusedByKeyAndValue) {
  ExpectConfigRefused("mamba2", "rms_norm", "false", "rms_norm");
  ExpectConfigRefused("mamba2", "n_groups", "3", "expected a divisor of num_heads = 10, found 3");
  ExpectConfigRefused("mamba2", "expand", "3", "expected num_heads * head_dim = 640");
  ExpectConfigRefused("mamba2", "time_step_limit", "[0.1]", "expected two numbers");
  for (const char* key : {"num_heads", "head_dim", "state_size", "conv_kernel"}) {
    ExpectConfigRefused("mamba2", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
