// The model's own head drafts on the last stage of any placement: the same drafts everywhere, no bit of the model's own
// rows changed, and texts that are those of a server without it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "exec/sequence_cursor.h"
#include "placement/placed_cluster.h"
#include "sched/scheduler.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

using ::testing::Each;
using ::testing::SizeIs;

std::vector<Placed> PlacementsThatPredict() {
  std::vector<Placed> all = Placements();
  all.push_back({"three stages", {1, 1, 1}});
  all.push_back({"three stages, experts spread", {1, 1, 1}, ExpertStrategy::kRoundRobin});
  for (Placed& placed : all) placed.mtp = true;
  return all;
}

OpenedModel Opened(const std::string& folder) {
  auto model = OpenModel(folder);
  if (!model.ok()) ADD_FAILURE() << ToString(model.status());
  return *std::move(model);
}

SamplingParams Penalised() {
  return {.temperature = 1.2f,
          .repetition_penalty = 1.3f,
          .presence_penalty = 0.5f,
          .seed = 5,
          .top_logprobs = 2};
}

/// A sequence that is decoded on a cluster, step by step.
class Decoded {
 public:
  Decoded(PlacedCluster& cluster, const std::vector<int32_t>& prompt)
      : cluster_(cluster),
        tokens_(prompt),
        cursor_(kId, {.blocks = IdsFrom(BlockId{8}, 8),
                      .slots = IdsFrom(SlotId{0}, cluster.limits().state_slots_each())}) {}

  /// Of the next `count` tokens that are not in the cache yet; all of them: then it samples. With a draft, all.
  SeqResult feed(size_t count, std::span<const int32_t> draft = {}) {
    const auto at = static_cast<size_t>(cursor_.position());
    const std::span<const int32_t> tokens = tokens_;
    const bool last = !draft.empty() || at + count == tokens.size();
    Step step;
    if (at == 0) step.begins = {{kId, Penalised(), tokens_, static_cast<int32_t>(tokens_.size())}};
    step.slices = {draft.empty() ? cursor_.next(tokens.subspan(at, count), last)
                                 : cursor_.next_drafted(tokens.subspan(at), draft)};
    step.slices[0].draft = last;
    if (!last) step.slices[0].next_token = tokens[at + count];
    const auto result = cluster_.submit(std::move(step)).get();
    if (!result.ok()) {
      ADD_FAILURE() << ToString(result.status());
      return {};
    }
    if (!last) return {};
    if (result->sequences.size() != 1 || !result->sequences[0].status.ok()) {
      ADD_FAILURE() << result->sequences.size() << " results";
      return {};
    }
    return result->sequences[0];
  }
  void append(int32_t token) { tokens_.push_back(token); }
  /// All but the last token came as drafted, and what follows them did not.
  void settle() { cursor_.go_back_to(std::ssize(tokens_) - 1); }

 private:
  static constexpr SeqId kId{1};
  PlacedCluster& cluster_;
  std::vector<int32_t> tokens_;
  SequenceCursor cursor_;
};

/// A family with a head.
class MtpPlacementTest : public ::testing::TestWithParam<std::string> {
 protected:
  MtpPlacementTest() {
    for (int32_t i = 0; i < 57; ++i) prompt_.push_back((i * i + 3) % 331);
  }
  std::vector<int32_t> prompt_;
};

TEST_P(MtpPlacementTest, DraftsAreThoseOfOneNodeAndTheModelsOwnBitsStay) {
  const OpenedModel model = Opened(MtpCheckpoint(GetParam(), AffineFormat{4, 64}));
  ASSERT_TRUE(model.facts.mtp.has_value());
  constexpr int kTokens = 12;
  std::vector<SampledToken> plain;
  {
    PlacedCluster cluster(model, Placements()[0]);
    EXPECT_FALSE(cluster.limits().mtp);
    Decoded text(cluster, prompt_);
    for (int i = 0; i < kTokens; ++i) {
      const SeqResult got = text.feed(i == 0 ? prompt_.size() : 1);
      ASSERT_THAT(got.tokens, SizeIs(1));
      EXPECT_THAT(got.drafted, SizeIs(0));
      plain.push_back(got.tokens[0]);
      text.append(got.tokens[0].id);
    }
  }
  std::vector<int32_t> drafts;
  for (const Placed& placed : PlacementsThatPredict()) {
    SCOPED_TRACE(placed.name);
    PlacedCluster cluster(model, placed);
    EXPECT_TRUE(cluster.limits().mtp);
    Decoded text(cluster, prompt_);
    std::vector<int32_t> here;
    for (int i = 0; i < kTokens; ++i) {
      if (i == 0 && drafts.empty()) {
        // One shot; the others in chunks that end within and with blocks.
      } else if (i == 0) {
        for (const size_t chunk : {5, 27, 7}) text.feed(chunk);
      }
      const SeqResult got = text.feed(i > 0 ? 1 : drafts.empty() ? prompt_.size() : prompt_.size() - 39);
      ASSERT_THAT(got.tokens, SizeIs(1));
      EXPECT_EQ(got.tokens[0], plain[static_cast<size_t>(i)]);
      ASSERT_THAT(got.drafted, SizeIs(1));
      here.push_back(got.drafted[0]);
      text.append(got.tokens[0].id);
    }
    if (drafts.empty()) drafts = here;
    EXPECT_EQ(here, drafts);
  }
}

// Verified drafts, right and wrong, leave the head's cache as decoding one by one does.
TEST_P(MtpPlacementTest, DraftsDoNotDependOnWhatWasVerified) {
  const OpenedModel model = Opened(MtpCheckpoint(GetParam()));
  PlacedCluster cluster(model, PlacementsThatPredict()[1]);
  std::vector<SeqResult> one_by_one;
  Decoded text(cluster, prompt_);
  for (int i = 0; i < 14; ++i) {
    one_by_one.push_back(text.feed(i == 0 ? prompt_.size() : 1));
    text.append(one_by_one.back().tokens[0].id);
  }
  const auto id = [&](size_t i) { return one_by_one[i].tokens[0].id; };
  Decoded verified(cluster, prompt_);
  EXPECT_EQ(verified.feed(prompt_.size()).drafted, one_by_one[0].drafted);
  verified.append(id(0));
  size_t have = 1;
  for (const size_t right : {2, 0, 3, 1}) {
    std::vector<int32_t> draft;
    for (size_t i = 0; i < right; ++i) draft.push_back(id(have + i));
    for (int i = 0; i < 2; ++i) draft.push_back((id(have + right) + 1) % 331);
    const SeqResult got = verified.feed(1, draft);
    EXPECT_EQ(got.drafted, one_by_one[have + right].drafted) << right;
    for (size_t i = 0; i <= right; ++i) verified.append(id(have++));
    verified.settle();
  }
}

constexpr int64_t kAnswer = 80;  ///< Tokens: three blocks.

/// What a scheduler says of requests that share beginnings, some of several choices.
struct Answers {
  std::vector<std::vector<int32_t>> texts;
  SchedulerStats stats;
};

Answers Ask(const OpenedModel& model, const Placed& placed, int32_t blocks, BatchPlannerOptions batch) {
  PlacedCluster cluster(model, placed, blocks, 1);
  Scheduler scheduler(cluster.engine(), {.batch = batch});
  Answers answers;
  RandomStream random(3);
  std::vector<int32_t> head(70);
  for (int32_t& token : head) token = static_cast<int32_t>(random.below(331));
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<std::pair<std::shared_ptr<RecordingSink>, int>> sinks;
    for (int i = 0; i < 5; ++i) {
      GenerationRequest request;
      request.prompt = head;
      for (int more = 0; more < 7 * i + 3 * turn; ++more)
        request.prompt.push_back(static_cast<int32_t>(random.below(331)));
      request.max_tokens = kAnswer;
      request.sampling = {.temperature = i % 2 == 0 ? 0.0f : 0.8f, .seed = static_cast<uint64_t>(i)};
      if (i == 4) request.sampling.frequency_penalty = 0.4f;
      request.deadline = Deadline::after_ms(600'000);
      std::vector<GenerationRequest> choices(i == 3 ? 3 : 1, request);
      for (size_t choice = 0; choice < choices.size(); ++choice)
        choices[choice].sampling.choice = static_cast<uint32_t>(choice);
      sinks.emplace_back(std::make_shared<RecordingSink>(), static_cast<int>(choices.size()));
      const auto id = scheduler.submit(std::move(choices), sinks.back().first);
      if (!id.ok()) ADD_FAILURE() << ToString(id.status());
    }
    for (const auto& [sink, choices] : sinks) {
      for (int waits = 0; waits < 20 && !sink->wait_end(choices); ++waits) {
      }
      if (!sink->error().ok()) ADD_FAILURE() << ToString(sink->error());
      for (int choice = 0; choice < choices; ++choice) answers.texts.push_back(sink->tokens(choice));
    }
  }
  answers.stats = scheduler.stats();
  return answers;
}

constexpr BatchPlannerOptions kAlways{.rows_per_step = 64, .draft_max = 4, .draft_when = DraftWhen::kAlways};

TEST_P(MtpPlacementTest, TextsAreThoseWithoutDrafts) {
  const OpenedModel model = Opened(MtpCheckpoint(GetParam(), AffineFormat{4, 64}));
  const Answers plain = Ask(model, Placements()[0], 64, {.rows_per_step = 64});
  ASSERT_THAT(plain.texts, SizeIs(14));
  ASSERT_THAT(plain.texts, Each(SizeIs(kAnswer)));
  const std::vector<Placed> placements = PlacementsThatPredict();
  for (const size_t placement : {0, 3, 4}) {
    SCOPED_TRACE(placements[placement].name);
    const Answers roomy = Ask(model, placements[placement], 64, kAlways);
    EXPECT_EQ(roomy.texts, plain.texts);
    EXPECT_GT(roomy.stats.mtp_drafts.drafted, 100);
    EXPECT_GT(roomy.stats.prefix_cache.hits, 0);
    if (placement != 4) continue;
    const Answers tight = Ask(model, placements[placement], 10, kAlways);
    EXPECT_EQ(tight.texts, plain.texts);
    EXPECT_GT(tight.stats.preemptions, 0);
  }
}

// A head that can know what follows: nearly each step gives two tokens, whoever shares the prompt's blocks.
TEST_P(MtpPlacementTest, DraftsThatAreRightAreAccepted) {
  const OpenedModel model = Opened(MtpChainCheckpoint(GetParam()));
  const Answers plain = Ask(model, Placements()[0], 64, {.rows_per_step = 64});
  EXPECT_EQ(plain.texts[0][1], NextInChain(plain.texts[0][0]));
  const std::vector<Placed> placements = PlacementsThatPredict();
  for (const size_t placement : {0, 4}) {
    SCOPED_TRACE(placements[placement].name);
    const Answers drafted = Ask(model, placements[placement], 64, kAlways);
    EXPECT_EQ(drafted.texts, plain.texts);
    const DraftTotals& totals = drafted.stats.mtp_drafts;
    EXPECT_GT(totals.drafted, 14 * 10);
    EXPECT_GT(totals.accepted, totals.drafted * 9 / 10);
    // Stages have steps of their own in flight.
    if (placement == 0) {
      EXPECT_LT(drafted.stats.steps, plain.stats.steps * 3 / 4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, MtpPlacementTest,
                         testing::Values("glm4_moe", "deepseek_v3", "glm_moe_dsa", "qwen3_5_text"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace shoal
