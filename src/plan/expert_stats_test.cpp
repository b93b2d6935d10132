#include "plan/expert_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "plan/plan_test_models.h"

namespace shoal {
namespace {

using testing::HasSubstr;

/// Two layers: one dense, one of four experts and two per row.
ModelFacts Model() { return MoeModel(2, 4); }

ExpertStats SomeStats() {
  ExpertStats stats = NoUse(Model());
  stats.layers[1] = {.top_k = 2, .rows = {5, 3, 0, 2}, .sample = {0, 1, 0, 3, 1, 3}};
  return stats;
}

std::string ErrorOf(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  return ToString(ExpertStatsFromJson(text).status());
}

TEST(ExpertStats, AreReadBackAsTheyWereWritten) {
  const auto read = ExpertStatsFromJson(ExpertStatsToJson(SomeStats()));
  ASSERT_TRUE(read.ok()) << ToString(read.status());
  EXPECT_EQ(*read, SomeStats());
  EXPECT_EQ(read->layers[1].calls(), 10u);
  EXPECT_EQ(read->layers[1].sampled(), 3);
}

TEST(ExpertStats, ARowOfFewerExpertsEndsInNone) {
  constexpr uint16_t kNone = LayerUse::kNoneSampled;
  ExpertStats stats = SomeStats();
  stats.layers[1].sample = {0, 1, 2, kNone, kNone, kNone};
  const auto read = ExpertStatsFromJson(ExpertStatsToJson(stats));
  ASSERT_TRUE(read.ok()) << ToString(read.status());
  EXPECT_EQ(*read, stats);
  EXPECT_EQ(UsedTogether(read->layers[1]).of(0, 1), 1);
  EXPECT_THAT(ErrorOf(ExpertStatsToJson(stats), "2 65535", "65535 2"),
              HasSubstr("row 1 of the sample: 2 follows"));
}

TEST(ExpertStats, ADamagedTextIsRefusedWithThePlace) {
  const std::string text = ExpertStatsToJson(SomeStats());
  EXPECT_THAT(ErrorOf(text, "[5,3,", "[6,3,"), HasSubstr("checksum: the file is damaged"));
  EXPECT_THAT(ErrorOf(text, "0 1 0 3 1 3", "0 1 0 3 1 2"), HasSubstr("checksum: the file is damaged"));
  EXPECT_THAT(ErrorOf(text, "0 1 0 3 1 3", "0 1 0 3 3 1"), HasSubstr("row 2 of the sample: 1 follows 3"));
  EXPECT_THAT(ErrorOf(text, "0 1 0 3 1 3", "0 1 0 3 1 4"), HasSubstr("expected ascending ids below 4"));
  EXPECT_THAT(ErrorOf(text, "0 1 0 3 1 3", "0 1 0 3 1"), HasSubstr("a sample of 5 ids, 2 in each row"));
  EXPECT_THAT(ErrorOf(text, "0 1 0 3 1 3", "0 1 0 3 1 "), HasSubstr("layers[1].sample: expected ids"));
  EXPECT_THAT(ErrorOf(text, "0 1 0 3 1 3", "0 1 0 3 1 -3"), HasSubstr("layers[1].sample: expected ids"));
  EXPECT_THAT(ErrorOf(text, "[5,3,", "[-5,3,"), HasSubstr("layers[1].rows[0]"));
  EXPECT_THAT(ErrorOf(text, "stats-1", "stats-9"), HasSubstr("format"));
  EXPECT_FALSE(ExpertStatsFromJson(text.substr(0, text.size() / 2)).ok());
}

TEST(ExpertStats, AFileOfAnotherModelIsRefused) {
  const std::string path = testing::TempDir() + "/expert-stats-test.json";
  ASSERT_EQ(WriteTextFile(path, ExpertStatsToJson(SomeStats())), absl::OkStatus());
  EXPECT_EQ(*ReadExpertStats(path, Model()), SomeStats());
  ModelFacts other = Model();
  other.hash = "other";
  EXPECT_EQ(ReadExpertStats(path, other).status().code(), absl::StatusCode::kFailedPrecondition);
  ModelFacts wider = Model();
  wider.layers[1].experts = 5;
  EXPECT_EQ(ReadExpertStats(path, wider).status().code(), absl::StatusCode::kFailedPrecondition);
  std::filesystem::remove(path);
  EXPECT_EQ(ReadExpertStats(path, Model()).status().code(), absl::StatusCode::kNotFound);
}

TEST(ExpertStats, CountsAddUpAndAFullSampleTakesNewRows) {
  LayerUse use{.rows = std::vector<uint64_t>(4)};
  const LayerUse old{.top_k = 2, .rows = {1, 1, 0, 0}, .sample = {0, 1}};
  const LayerUse fresh{.top_k = 2, .rows = {0, 0, 1, 1}, .sample = {2, 3}};
  for (int64_t i = 0; i < kSampledRowsMax; ++i) AddUse(old, use);
  EXPECT_EQ(use.sampled(), kSampledRowsMax);
  for (int64_t i = 0; i < kSampledRowsMax; ++i) AddUse(fresh, use);
  EXPECT_EQ(use.sampled(), kSampledRowsMax);
  EXPECT_EQ(use.rows, (std::vector<uint64_t>{2048, 2048, 2048, 2048}));
  int64_t taken = 0;
  for (int64_t r = 0; r < use.sampled(); ++r) taken += use.row(r)[0] == 2 ? 1 : 0;
  // Each new row takes a place at random: 1 - 1/e of the places are expected to be new.
  EXPECT_GT(taken, kSampledRowsMax / 2);
  EXPECT_LT(taken, kSampledRowsMax * 3 / 4);
}

}  // namespace
}  // namespace shoal
