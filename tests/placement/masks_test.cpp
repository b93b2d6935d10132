// Sampling under masks: wherever the layers and experts are, a mask gives the same tokens, they are those that the
// logits say, other sequences of the same steps keep their bits, and a mask that allows nothing ends its sequence
// alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "placement/placed_cluster.h"
#include "placement/placed_sequence.h"

namespace shoal {
namespace {

using testing::HasSubstr;

bool Allows(const TokenMask& mask, int32_t id) {
  return (mask.words[static_cast<size_t>(id / 32)] >> (id % 32) & 1) != 0;
}

/// When masks leave the coordinator.
enum class Sent { kWithTheStep, kLater };

class MasksTest : public testing::Test {
 protected:
  void SetUp() override {
    auto model = OpenModel(TinyCheckpoint("qwen3_moe"));
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
  }

  /// About one id of twelve may come, another set for every position.
  TokenMask mask_of(SeqId id, int64_t position) const {
    const auto vocabulary = static_cast<uint64_t>(model_.spec.vocabulary);
    TokenMask mask{id, static_cast<int32_t>(position), std::vector<uint32_t>((vocabulary + 31) / 32), {}};
    for (uint64_t token = 0; token < vocabulary; ++token) {
      const bool may = Mix64(token ^ Mix64(static_cast<uint64_t>(position))) % 12 == 0;
      if (may) mask.words[token / 32] |= uint32_t{1} << (token % 32);
    }
    return mask;
  }

  static void send(PlacedCluster& cluster, const std::vector<TokenMask>& masks, Sent when) {
    if (when == Sent::kWithTheStep) return cluster.send_masks(masks);
    for (const TokenMask& mask : masks) {
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      cluster.send_masks({&mask, 1});
    }
  }

  /// Appends what the result has for the sequence; its status.
  static absl::Status take(const StepResult& result, Sequence& sequence) {
    for (const SeqResult& one : result.sequences) {
      if (one.id != sequence.id) continue;
      for (const SampledToken& token : one.tokens) sequence.tokens.push_back(token.id);
      return one.status;
    }
    return NotFound("the result has nothing of sequence {}", sequence.id);
  }

  /// The tokens of a sequence that has masks, and of one that has none and shares its steps.
  struct Texts {
    std::vector<int32_t> masked;
    std::vector<int32_t> free;
    bool operator==(const Texts&) const = default;
  };
  Texts generate(const Placed& placed, const SamplingParams& sampling, Sent when) {
    PlacedCluster cluster(model_, placed);
    Sequence masked(1, 0, {3, 17, 3, 29}, cluster.limits());
    Sequence free(2, 1, {9, 8, 7, 6, 5}, cluster.limits());
    for (int i = 0; i < 10; ++i) {
      Step step;
      if (i == 0) step.begins = {masked.begin(sampling), free.begin(sampling)};
      const int64_t position = std::ssize(masked.tokens);
      step.slices = {masked.slice(), free.slice()};
      step.slices[0].masked = true;
      auto done = cluster.submit(std::move(step));
      const TokenMask mask = mask_of(masked.id, position);
      send(cluster, {mask}, when);
      const auto result = done.get();
      EXPECT_TRUE(result.ok()) << ToString(result.status());
      if (!result.ok()) break;
      EXPECT_EQ(take(*result, masked), absl::OkStatus());
      EXPECT_EQ(take(*result, free), absl::OkStatus());
      EXPECT_TRUE(Allows(mask, masked.tokens.back())) << placed.name << ": " << masked.tokens.back();
    }
    return {masked.tokens, free.tokens};
  }

  /// The tokens of the sequence without masks, alone.
  std::vector<int32_t> alone(const SamplingParams& sampling) {
    PlacedCluster cluster(model_, Placements()[0]);
    Sequence free(2, 1, {9, 8, 7, 6, 5}, cluster.limits());
    for (int i = 0; i < 10; ++i) {
      Step step;
      if (i == 0) step.begins = {free.begin(sampling)};
      step.slices = {free.slice()};
      const auto result = cluster.submit(std::move(step)).get();
      SHOAL_CHECK(result.ok() && take(*result, free).ok());
    }
    return free.tokens;
  }

  OpenedModel model_;
};

TEST_F(MasksTest, EveryPlacementGivesTheSameTokensAndOthersKeepTheirs) {
  const SamplingParams drawn{.temperature = 1.2f, .top_p = 0.9f, .repetition_penalty = 1.2f, .seed = 11};
  for (const SamplingParams& sampling : {SamplingParams{.temperature = 0}, drawn}) {
    const std::vector<int32_t> free = alone(sampling);
    std::optional<Texts> first;
    for (const Placed& placed : Placements()) {
      for (const Sent when : {Sent::kWithTheStep, Sent::kLater}) {
        const Texts texts = generate(placed, sampling, when);
        if (!first.has_value()) first = texts;
        EXPECT_EQ(texts.masked, first->masked) << placed.name;
        EXPECT_EQ(texts.free, free) << placed.name;
      }
    }
  }
}

TEST_F(MasksTest, TheTokenIsTheLargestOfTheLogitsThatAreAllowed) {
  for (const Placed& placed : Placements()) {
    PlacedCluster cluster(model_, placed);
    Sequence sequence(1, 0, {3, 17, 3, 29, 40, 41}, cluster.limits());
    Step step;
    step.begins = {sequence.begin()};
    step.slices = {sequence.slice()};
    step.slices[0].masked = true;
    step.slices[0].sample_from = 2;  // Several rows: each has a mask of its own.
    step.want_logits = true;
    auto done = cluster.submit(std::move(step));
    std::vector<TokenMask> masks;
    for (int64_t position = 3; position <= 6; ++position) masks.push_back(mask_of(sequence.id, position));
    send(cluster, masks, Sent::kLater);
    const auto result = done.get();
    ASSERT_TRUE(result.ok()) << ToString(result.status());
    ASSERT_EQ(result->sequences.size(), 1u);
    ASSERT_EQ(result->sequences[0].tokens.size(), 4u);
    const auto vocabulary = static_cast<size_t>(model_.spec.vocabulary);
    for (size_t i = 0; i < 4; ++i) {
      const float* logits = result->logits.data() + (i + 2) * vocabulary;
      int32_t best = -1;
      for (int32_t id = 0; id < static_cast<int32_t>(vocabulary); ++id) {
        if (Allows(masks[i], id) && (best < 0 || logits[id] > logits[best])) best = id;
      }
      EXPECT_EQ(result->sequences[0].tokens[i].id, best) << placed.name << ", row " << i;
    }
  }
}

TEST_F(MasksTest, OneThatAllowsNothingEndsItsSequenceAlone) {
  const std::vector<int32_t> free = alone({.temperature = 0});
  for (const Placed& placed : Placements()) {
    for (const bool known : {true, false}) {
      PlacedCluster cluster(model_, placed);
      Sequence masked(1, 0, {3, 17, 3, 29}, cluster.limits());
      Sequence other(2, 1, {9, 8, 7, 6, 5}, cluster.limits());
      TokenMask mask = mask_of(masked.id, 4);
      if (known) {
        std::ranges::fill(mask.words, 0);
      } else {
        mask.words.clear();
        mask.status = InvalidArgument("grammar: too many states");
      }
      for (int i = 0; i < 10; ++i) {
        Step step;
        if (i == 0) {
          step.begins = {masked.begin(), other.begin()};
          step.slices = {masked.slice()};
          step.slices[0].masked = true;
        }
        if (i == 1) step.ends = {masked.id};
        step.slices.push_back(other.slice());
        auto done = cluster.submit(std::move(step));
        if (i == 0) cluster.send_masks({&mask, 1});
        const auto result = done.get();
        ASSERT_TRUE(result.ok()) << ToString(result.status());
        ASSERT_EQ(take(*result, other), absl::OkStatus());
        if (i > 0) continue;
        const absl::Status ended = take(*result, masked);
        EXPECT_EQ(ended.code(), absl::StatusCode::kInvalidArgument);
        EXPECT_THAT(Message(ended), HasSubstr(known ? "the grammar allows no token" : "too many states"));
        EXPECT_THAT(Message(ended), HasSubstr("sequence 1, node"));
      }
      EXPECT_EQ(other.tokens, free) << placed.name;
    }
  }
}

}  // namespace
}  // namespace shoal
