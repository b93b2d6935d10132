#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compute/testing/family_checks.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

TEST(Qwen3Next, MatchesTheReference) { ExpectGoldensMatch("qwen3_next"); }

TEST(Qwen3Next, EveryKeyHeadHasItsRowsTogether) {
  const ModelSpec spec = SpecWith("qwen3_next", "use_cache", "true");
  const GatedDeltaNetSpec& delta = std::get<GatedDeltaNetSpec>(spec.layers[0].mixer);
  // 4 key heads with 12 + 12 rows, and 4 * 20 values and as many gates.
  const auto expect = [](const LinearSpec& part, Range rows, int64_t run, int64_t interval) {
    const WeightSource& source = part.weight.sources[0];
    EXPECT_EQ(source.rows, rows);
    EXPECT_EQ(source.row_run, run);
    EXPECT_EQ(source.row_interval, interval);
    EXPECT_EQ(source.stored_rows, 4 * interval);
  };
  expect(delta.q, {0, 3 * 184 + 12}, 12, 184);
  expect(delta.k, {12, 3 * 184 + 24}, 12, 184);
  expect(delta.v, {24, 3 * 184 + 104}, 80, 184);
  expect(delta.z, {104, 4 * 184}, 80, 184);
  expect(delta.b, {0, 3 * 8 + 4}, 4, 8);
  expect(delta.a, {4, 4 * 8}, 4, 8);
}

TEST(Qwen3Next, MlxFoldersAreToldByTheirStacks) {
  const ModelSpec spec = SpecWith("qwen3_next", "use_cache", "true");
  const std::vector<WeightSource>& norm = spec.final_norm.weight.sources;
  ASSERT_EQ(norm.size(), 2u);
  EXPECT_EQ(norm[0].offset, 1);
  EXPECT_EQ(norm[1].offset, 0);
  EXPECT_EQ(norm[0].name(), norm[1].name());
  EXPECT_EQ(norm[1].only_with, "model.layers.0.mlp.switch_mlp.up_proj.weight");
  const WeightRef& conv = std::get<GatedDeltaNetSpec>(spec.layers[0].mixer).conv[0];
  ASSERT_EQ(conv.sources.size(), 2u);
  EXPECT_THAT(conv.sources[0].strided->stored_shape, testing::ElementsAre(416, 1, 4));
  EXPECT_THAT(conv.sources[1].strided->stored_shape, testing::ElementsAre(416, 4, 1));
  EXPECT_EQ(std::get<GatedDeltaNetSpec>(spec.layers[0].mixer).norm.weight.sources.size(), 1u);
}

TEST(Qwen3Next, DenseLayersAreThoseThatTheConfigNames) {
  const ModelSpec spec = SpecWith("qwen3_next", "mlp_only_layers", "[2, 5]");
  for (int64_t i = 0; i < 7; ++i) {
    EXPECT_EQ(MoeOf(spec.layers[static_cast<size_t>(i)]) == nullptr, i == 2 || i == 5) << i;
  }
}

// No config says so: the head is there where the tensors are.
TEST(Qwen3Next, HasAHeadForMultiTokenPredictionUnlessTheConfigSaysNone) {
  EXPECT_FALSE(SpecWith("qwen3_next", "use_cache", "true").mtp.has_value());
  const ModelSpec spec = SpecWith("qwen3_next", "num_nextn_predict_layers", "");
  ASSERT_TRUE(spec.mtp.has_value());
  EXPECT_EQ(spec.mtp->projection.weight.sources[0].name(), "mtp.fc.weight");
  EXPECT_TRUE(std::holds_alternative<GqaSpec>(spec.mtp->layer.mixer));
  EXPECT_NE(MoeOf(spec.mtp->layer), nullptr);
}

TEST(Qwen3Next, RopeIsReadFromBothPlaces) {
  for (const ModelSpec& spec :
       {SpecWith("qwen3_next", "use_cache", "true"),
        SpecWith("qwen3_next",
                 {{"partial_rotary_factor", ""},
                  {"rope_theta", ""},
                  {"rope_parameters", R"({"rope_theta": 1e7, "partial_rotary_factor": 0.25})"}})}) {
    const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[2].mixer);
    EXPECT_EQ(gqa.rope.dims, 6);
    EXPECT_EQ(gqa.rope.theta, 1e7);
    EXPECT_TRUE(gqa.output_gate);
  }
  for (const char* key : {"partial_rotary_factor", "norm_topk_prob", "decoder_sparse_step",
                          "linear_num_key_heads", "shared_expert_intermediate_size"}) {
    ExpectConfigRefused("qwen3_next", key, "", key);
  }
}

}  // namespace
}  // namespace shoal
