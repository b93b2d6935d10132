#include "compute/sampler.h"

#include <gtest/gtest.h>

#include <map>

namespace shoal {
namespace {

const Kernels& K() { return SelectKernels(SupportedIsas().front()); }

int32_t Sample(const SamplingParams& params, std::vector<float> logits, int64_t position = 0,
               const TokenHistory& history = {}) {
  Arena arena;
  const auto token = SampleToken(K(), params, history, position, arena, logits);
  EXPECT_TRUE(token.ok());
  return token.ok() ? *token : -1;
}

std::map<int32_t, int> Histogram(const SamplingParams& params, const std::vector<float>& logits, int draws) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[Sample(params, logits, i)];
  return counts;
}

TEST(Sampler, ZeroTemperatureTakesTheLargestAndTiesGoToTheLowestId) {
  EXPECT_EQ(Sample({.temperature = 0}, {1, 5, 5, 2}), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  // p = {1, 2, 1} / 4 for logits log {1, 2, 1}; 4000 draws, so five standard errors are 5 * sqrt(.25 / 4000)
  // = 0.04.
  const auto counts = Histogram({.seed = 7}, {0.0f, 0.6931472f, 0.0f}, 4000);
  EXPECT_NEAR(counts.at(0) / 4000.0, 0.25, 0.04);
  EXPECT_NEAR(counts.at(1) / 4000.0, 0.50, 0.04);
}

TEST(Sampler, SameSeedAndPositionGiveTheSameTokenAndAnotherSeedDiffers) {
  const std::vector<float> logits(100, 0.0f);
  int equal = 0;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Sample({.seed = 1}, logits, i), Sample({.seed = 1}, logits, i));
    equal += Sample({.seed = 1}, logits, i) == Sample({.seed = 2}, logits, i);
  }
  EXPECT_LT(equal, 20);
}

TEST(Sampler, TopKLeavesTheKLargest) {
  const auto counts = Histogram({.top_k = 2, .seed = 3}, {1, 2, 3, 0}, 300);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains(1) && counts.contains(2));
}

TEST(Sampler, TopPLeavesTheFewestThatReachIt) {
  // Masses 0.5, 0.25, 0.125, 0.125: 0.6 needs two of them.
  const std::vector<float> logits = {0.0f, 1.3862944f, 0.6931472f, 0.0f};
  const auto counts = Histogram({.top_p = 0.6f, .seed = 3}, logits, 300);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains(1) && counts.contains(2));
}

TEST(Sampler, TopPLooksBeyondTheFirstWindow) {
  // 500 equal ids: 0.5 of the mass is 250 of them, more than one window of 64.
  const auto counts = Histogram({.top_p = 0.5f, .seed = 3}, std::vector<float>(500, 1.0f), 2000);
  EXPECT_GT(counts.size(), 200u);
  for (const auto& [id, n] : counts) EXPECT_LT(id, 251);
}

TEST(Sampler, MinPDropsIdsFarBelowTheLargest) {
  const auto counts = Histogram({.min_p = 0.4f, .seed = 3}, {0.0f, 1.3862944f, 0.6931472f}, 300);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_FALSE(counts.contains(0));
}

TEST(Sampler, PenaltiesLowerWhatWasSeen) {
  const std::vector<int32_t> tokens = {0, 1};
  const TokenHistory history(tokens, 1);  // 0 is the prompt, 1 was generated.
  EXPECT_EQ(Sample({.temperature = 0, .repetition_penalty = 2}, {4, 3.9f, 2.5f}, 0, history), 2);
  EXPECT_EQ(Sample({.temperature = 0, .presence_penalty = 1}, {2, 2.5f, 1.9f}, 0, history), 0);
  EXPECT_EQ(Sample({.temperature = 0, .frequency_penalty = 1}, {1, 2.5f, 1.9f}, 0, history), 2);
}

TEST(Sampler, LogitBiasMovesAnIdAndRefusesOneOutsideTheVocabulary) {
  EXPECT_EQ(Sample({.temperature = 0, .logit_bias = {{2, 10.0f}}}, {4, 3, 2}), 2);
  std::vector<float> logits = {1, 2};
  Arena arena;
  EXPECT_EQ(SampleToken(K(), {.logit_bias = {{2, 1.0f}}}, {}, 0, arena, logits).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Sampler, NanIsAnError) {
  std::vector<float> logits = {1, __builtin_nanf(""), 0};
  Arena arena;
  EXPECT_EQ(SampleToken(K(), {}, {}, 3, arena, logits).status().code(), absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace shoal
