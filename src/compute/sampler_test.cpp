#include "compute/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "base/status.h"

namespace shoal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const Kernels& K() { return SelectKernels(SupportedIsas().front()); }

int32_t Sample(const SamplingParams& params, std::vector<float> logits, int64_t position = 0,
               const TokenHistory& history = {}) {
  Arena arena;
  const auto token = SampleToken(K(), {params, history, position, {}}, arena, logits);
  EXPECT_TRUE(token.ok());
  return token.ok() ? token->id : -1;
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
  EXPECT_EQ(
      SampleToken(K(), {SamplingParams{.logit_bias = {{2, 1.0f}}}, {}, 0, {}}, arena, logits).status().code(),
      absl::StatusCode::kInvalidArgument);
}

absl::StatusCode CodeOf(const SamplingParams& params, std::vector<float> logits) {
  Arena arena;
  return SampleToken(K(), {params, {}, 3, {}}, arena, logits).status().code();
}

TEST(Sampler, NanAndInfinityAreErrors) {
  for (const float temperature : {0.0f, 1.0f}) {
    EXPECT_EQ(CodeOf({.temperature = temperature}, {1, __builtin_nanf(""), 0}),
              absl::StatusCode::kOutOfRange);
    EXPECT_EQ(CodeOf({.temperature = temperature}, {1, kInfinity, 0}), absl::StatusCode::kOutOfRange);
  }
}

TEST(Sampler, NoTokenIsSampledWhereNoneIsLeft) {
  const SamplingParams nothing{.temperature = 0, .logit_bias = {{0, -kInfinity}, {1, -kInfinity}}};
  EXPECT_EQ(CodeOf(nothing, {1, 2}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Sample(nothing, {1, 2, -9}), 2);
}

TEST(TokenHistory, PlacedTokensReplaceWhatStoodThereAndBehind) {
  const std::vector<int32_t> tokens = {7, 8, 7, 9};
  TokenHistory history(tokens, 2);
  const auto counts = [&](int32_t id) {
    const auto found = history.counts().find(id);
    return found == history.counts().end() ? std::pair(0, 0)
                                           : std::pair(found->second.prompt, found->second.generated);
  };
  EXPECT_EQ(counts(7), std::pair(1, 1));
  history.place(3, std::vector<int32_t>{9, 7, 5});  // Two drafts behind what is known.
  EXPECT_EQ(counts(7), std::pair(1, 2));
  EXPECT_EQ(counts(5), std::pair(0, 1));
  history.place(4, std::vector<int32_t>{6});  // Both are rejected.
  EXPECT_EQ(counts(7), std::pair(1, 1));
  EXPECT_EQ(counts(9), std::pair(0, 1));
  EXPECT_EQ(counts(6), std::pair(0, 1));
  EXPECT_FALSE(history.counts().contains(5));
  history.place(8, std::vector<int32_t>{6});  // Positions 5 to 7 are unknown, and count as no id.
  EXPECT_EQ(counts(6), std::pair(0, 2));
  history.place(0, std::vector<int32_t>{7});
  EXPECT_EQ(history.counts().size(), 1u);
}

absl::StatusOr<SampledToken> WithLogprobs(SamplingParams params, std::vector<float> logits, int32_t count) {
  Arena arena;
  params.top_logprobs = count;
  return SampleToken(K(), {params, {}, 0, {}}, arena, logits);
}

TEST(Sampler, LogprobsAreTheLogSoftmaxOfTheLogitsFromTheHead) {
  // p = {1, 2, 1, 4} / 8.
  const std::vector<float> logits = {0.0f, 0.6931472f, 0.0f, 1.3862944f};
  const auto plain = WithLogprobs({.temperature = 0}, logits, 3);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->id, 3);
  EXPECT_NEAR(plain->logprob, std::log(0.5), 1e-6);
  ASSERT_EQ(plain->top.size(), 3u);
  EXPECT_EQ(plain->top[0].id, 3);
  EXPECT_EQ(plain->top[1].id, 1);
  EXPECT_EQ(plain->top[2].id, 0);  // As likely as 2, which has the higher id.
  EXPECT_NEAR(plain->top[1].logprob, std::log(0.25), 1e-6);
  EXPECT_NEAR(plain->top[2].logprob, std::log(0.125), 1e-6);
  // What decides the choice changes none of them.
  const auto biased = WithLogprobs({.temperature = 0.3f, .top_k = 1, .logit_bias = {{2, 50.0f}}}, logits, 3);
  ASSERT_TRUE(biased.ok());
  EXPECT_EQ(biased->id, 2);
  EXPECT_EQ(biased->logprob, plain->top[2].logprob);
  EXPECT_EQ(biased->top, plain->top);
}

TEST(Sampler, LogprobsAreOffUnlessAskedForAndBoundedByTheVocabulary) {
  const std::vector<float> logits = {0.0f, 1.0f};
  EXPECT_EQ(WithLogprobs({.temperature = 0}, logits, kNoLogprobs).value(), (SampledToken{1, 0, {}}));
  const auto alone = WithLogprobs({.temperature = 0}, logits, 0);
  EXPECT_LT(alone->logprob, 0.0f);
  EXPECT_TRUE(alone->top.empty());
  EXPECT_EQ(WithLogprobs({.temperature = 0}, logits, 20)->top.size(), 2u);
}

absl::StatusOr<SampledToken> Masked(const SamplingParams& params, std::vector<float> logits,
                                    std::vector<uint32_t> mask, int64_t position = 0) {
  Arena arena;
  return SampleToken(K(), {params, {}, position, mask}, arena, logits);
}

/// Of a vocabulary of 100, those divisible by three.
std::vector<uint32_t> Thirds() {
  std::vector<uint32_t> mask(4);
  for (uint32_t id = 0; id < 100; id += 3) mask[id / 32] |= uint32_t{1} << (id % 32);
  return mask;
}

TEST(Sampler, AMaskGivesTheTokenOfAModelThatHasTheAllowedIdsAlone) {
  std::vector<float> logits(100);
  std::vector<float> allowed;
  for (size_t id = 0; id < logits.size(); ++id) {
    logits[id] = std::sin(0.7f * static_cast<float>(id)) * 3;
    if (id % 3 == 0) allowed.push_back(logits[id]);
  }
  const SamplingParams several[] = {{.temperature = 0},
                                    {.temperature = 0.8f, .seed = 1},
                                    {.temperature = 1.3f, .top_k = 5, .seed = 2},
                                    {.temperature = 1.1f, .top_p = 0.6f, .min_p = 0.05f, .seed = 3}};
  for (const SamplingParams& params : several) {
    for (int64_t position = 0; position < 50; ++position) {
      const auto token = Masked(params, logits, Thirds(), position);
      ASSERT_TRUE(token.ok());
      EXPECT_EQ(token->id, 3 * Sample(params, allowed, position)) << position;
    }
  }
}

TEST(Sampler, AMaskOfAllIdsChangesNothing) {
  std::vector<float> logits(100);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = std::cos(0.3f * static_cast<float>(id)) * 2;
  const std::vector<uint32_t> all(4, ~uint32_t{0});
  for (int64_t position = 0; position < 50; ++position) {
    const SamplingParams params{.temperature = 0.9f, .top_p = 0.9f, .seed = 4, .top_logprobs = 3};
    EXPECT_EQ(*Masked(params, logits, all, position), *Masked(params, logits, {}, position));
  }
}

TEST(Sampler, NeitherBiasNorPenaltyBringsAForbiddenIdBack) {
  const SamplingParams params{.temperature = 0, .repetition_penalty = 0.5f, .logit_bias = {{1, 100.0f}}};
  EXPECT_EQ(Masked(params, {0, 5, -7}, {0b100})->id, 2);
}

TEST(Sampler, AMaskThatAllowsNothingIsAnErrorThatSaysSo) {
  const auto nothing = Masked({.temperature = 0}, {1, 2, 3}, {0});
  EXPECT_EQ(nothing.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(Message(nothing.status()).find("the grammar allows no token"), std::string::npos);
  EXPECT_FALSE(Masked({.temperature = 0}, {1, 2, 3}, {0b11000}).ok());  // Ids outside the vocabulary.
  EXPECT_FALSE(Masked({.temperature = 1}, {1, -kInfinity, 3}, {0b010}).ok());
  std::vector<float> long_logits(40, 1.0f);
  EXPECT_FALSE(Masked({.temperature = 1}, long_logits, {0}).ok());  // Ids without a bit may not come.
}

TEST(Sampler, ATokenIsScoredAsSamplingItTells) {
  const std::vector<float> logits = {0.25f, 0.6931472f, -3.0f, 1.3862944f};
  Arena arena;
  for (int32_t id = 0; id < 4; ++id) {
    const auto sampled = WithLogprobs({.temperature = 0, .logit_bias = {{id, 100.0f}}}, logits, 3);
    const auto scored = ScoreToken(K(), {.id = id, .position = 7, .top = 3}, arena, logits);
    ASSERT_TRUE(sampled.ok() && scored.ok());
    EXPECT_EQ(*scored, *sampled) << id;
    EXPECT_EQ(ScoreToken(K(), {.id = id, .position = 7, .top = 0}, arena, logits)->logprob, sampled->logprob);
  }
}

TEST(Sampler, LogitsThatAreNotFiniteScoreNothing) {
  Arena arena;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    const auto scored = ScoreToken(K(), {.id = 0, .position = 7}, arena, std::vector{1.0f, bad, 2.0f});
    EXPECT_EQ(scored.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_NE(Message(scored.status()).find("position 7"), std::string::npos);
  }
  const auto none = ScoreToken(K(), {.id = 0, .position = 7}, arena, std::vector{-kInfinity, -kInfinity});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kOutOfRange);
}

TEST(Sampler, LogprobsUnderAMaskAreThoseOfTheModel) {
  const std::vector<float> logits = {0.0f, 0.6931472f, 0.0f, 1.3862944f};
  const auto free = WithLogprobs({.temperature = 0}, logits, 2);
  const auto masked = Masked({.temperature = 0, .top_logprobs = 2}, logits, {0b0101});
  EXPECT_EQ(masked->id, 0);
  EXPECT_NEAR(masked->logprob, std::log(0.125), 1e-6);
  EXPECT_EQ(masked->top, free->top);
}

}  // namespace
}  // namespace shoal
