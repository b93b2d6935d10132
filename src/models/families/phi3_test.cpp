#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "compute/blocks/norm_rope.h"
#include "compute/testing/family_checks.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

TEST(Phi3, MatchesTheReference) { ExpectGoldensMatch("phi3"); }

TEST(Phi3, AMissingStructuralKeyIsAnErrorThatNamesIt) {
  for (const char* key : {"intermediate_size"}) {
    ExpectConfigRefused("phi3", key, "", key);
  }
}

TEST(Phi3, ProjectionsArePartsOfFusedOnes) {
  const ModelSpec spec = SpecWith("phi3", "num_key_value_heads", "4");
  const GqaSpec& gqa = std::get<GqaSpec>(spec.layers[2].mixer);
  const WeightSource& v = gqa.v.weight.sources[0];
  EXPECT_EQ(v.name(), "model.layers.2.self_attn.qkv_proj.weight");
  EXPECT_EQ(v.rows, (Range{400, 480}));
  EXPECT_EQ(v.stored_rows, 480);
  const WeightSource& up = std::get<DenseSpec>(spec.layers[2].feed_forward).up.weight.sources[0];
  EXPECT_EQ(up.rows, (Range{384, 768}));
  EXPECT_EQ(gqa.rope.dims, 16);
}

TEST(Phi3, LongropeWithOtherFactorsThanItSaysIsRefused) {
  const char* kFactors = "[1, 1, 1, 1, 1, 1, 1, 1]";
  const auto rope = [](const std::string& shorts, const std::string& longs, const std::string& more) {
    return fmt::format(R"({{"type": "longrope", "short_factor": {}, "long_factor": {} {}}})", shorts, longs,
                       more);
  };
  ExpectConfigRefused("phi3", "rope_scaling", rope("[1, 2]", kFactors, ""), "expected 8 factors");
  ExpectConfigRefused("phi3", "rope_scaling", rope(kFactors, "7", ""), "expected a list of numbers, found 7");
  ExpectConfigRefused("phi3", "rope_scaling", rope(kFactors, "[1, 1, 1, 1, 1, 1, 1, 0]", ""), "long_factor");
  ExpectConfigRefused("phi3", "rope_scaling", rope(kFactors, kFactors, R"(, "long_mscale": 1.2)"),
                      "long_mscale");
  ExpectConfigRefused("phi3", "rope_scaling", rope(kFactors, kFactors, R"(, "factor": 2)"), "found 2");
  ExpectConfigRefused("phi3",
                      {{"rope_scaling", rope("[0.1, 1, 1, 1, 1, 1, 1, 1]", kFactors, "")},
                       {"max_position_embeddings", "200000"}},
                      "by a factor of 0.1");
}

TEST(Phi3, BothSetsOfFactorsHaveOneMagnitude) {
  const ModelSpec spec = SpecWith("phi3", "num_key_value_heads", "4");
  EXPECT_EQ(ShortRopePositions(spec), 73);
  const RopeTable table = MakeRopeTable(std::get<GqaSpec>(spec.layers[2].mixer).rope);
  EXPECT_NEAR(table.magnitude, std::sqrt(1 + std::log(1024.0 / 73) / std::log(73.0)), 1e-6);
  EXPECT_NEAR(table.inverse_frequencies[7] / table.of_long_sequences[7], 14.5 / 2.5, 1e-5);
  EXPECT_EQ(table.inverse_frequencies[0], table.of_long_sequences[0]);
}

// 73 positions rotate by short factors.
TEST(Phi3, ASequenceThatOutgrowsTheShortFactorsGoesOnAsOneThatWasLongFromTheStart) {
  auto model = LocalModel::Load(TinyCheckpoint("phi3", AffineFormat{4, 64}), {});
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<int32_t> prompt(70);
  std::iota(prompt.begin(), prompt.end(), 11);
  const auto grown = (*model)->run(prompt, 8);
  ASSERT_TRUE(grown.ok()) << grown.status();
  std::vector<int32_t> longer = prompt;
  longer.insert(longer.end(), grown->greedy.begin(), grown->greedy.begin() + 4);
  for (const int64_t chunk : {0, 7}) {
    const auto fresh = (*model)->run(longer, 4, chunk);
    ASSERT_TRUE(fresh.ok()) << fresh.status();
    EXPECT_EQ(fresh->greedy, std::vector<int32_t>(grown->greedy.begin() + 4, grown->greedy.end()));
    // From the second row on: position 0 is not rotated.
    const auto vocabulary = static_cast<size_t>((*model)->spec().vocabulary);
    EXPECT_NE(std::memcmp(&fresh->logits[vocabulary], &grown->logits[vocabulary], vocabulary * sizeof(float)),
              0);
  }
}

}  // namespace
}  // namespace shoal
