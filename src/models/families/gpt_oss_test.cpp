#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"

namespace shoal {
namespace {

TEST(GptOss, MatchesTheReference) { ExpectGoldensMatch("gpt_oss"); }

TEST(GptOss, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"num_local_experts", "swiglu_limit", "attention_bias", "head_dim"}) {
    ExpectConfigRefused("gpt_oss", key, "", key);
  }
}

TEST(GptOss, GateAndUpTakeTurnsInTheHubsTensor) {
  const ModelSpec spec = SpecWith("gpt_oss", "num_experts_per_tok", "2");
  const DenseSpec& expert = MoeOf(spec.layers[2])->experts[5];
  const WeightSource& up = expert.up.weight.sources[1];
  EXPECT_EQ(up.name(), "model.layers.2.mlp.experts.gate_up_proj");
  EXPECT_EQ(up.strided->stored_shape, (std::vector<int64_t>{13, 320, 640}));
  EXPECT_EQ(up.stack, 13);
  EXPECT_EQ(up.index, 5);
  EXPECT_EQ(up.strided->offset, 1);
  EXPECT_EQ(up.strided->row_stride, 2);
  EXPECT_EQ(up.strided->col_stride, 640);
  const WeightSource& bias = expert.gate.bias->sources[1];
  EXPECT_EQ(bias.name(), "model.layers.2.mlp.experts.gate_up_proj_bias");
  EXPECT_EQ(bias.index, 5);
  EXPECT_EQ(bias.strided->offset, 0);
  EXPECT_EQ(bias.strided->col_stride, 2);
}

TEST(GptOss, GateAndUpTakeTurnsInTheHubsBlocks) {
  const ModelSpec spec = SpecWith("gpt_oss", "num_experts_per_tok", "2");
  const DenseSpec& expert = MoeOf(spec.layers[2])->experts[5];
  const WeightSource& gate = expert.gate.weight.sources[2];
  const WeightSource& up = expert.up.weight.sources[2];
  EXPECT_EQ(gate.name(), "model.layers.2.mlp.experts.gate_up_proj.weight");
  EXPECT_EQ(gate.rows, (Range{0, 639}));
  EXPECT_EQ(up.rows, (Range{1, 640}));
  EXPECT_EQ(up.row_interval, 2);
  EXPECT_EQ(up.stored_rows, 640);
  EXPECT_EQ(up.index, 5);
}

TEST(GptOss, LayersHaveSinksAndTakeTurnsWithTheWindow) {
  const ModelSpec spec = SpecWith("gpt_oss", "sliding_window", "128");
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[0].mixer).window, 128);
  EXPECT_FALSE(std::get<GqaSpec>(spec.layers[1].mixer).window.has_value());
  EXPECT_EQ(std::get<GqaSpec>(spec.layers[1].mixer).sinks->shape, std::vector<int64_t>{16});
}

}  // namespace
}  // namespace shoal
