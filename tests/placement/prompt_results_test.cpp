// How likely the tokens of a prompt were, and its embedding: the same bits on every placement and with every chunking,
// whatever is in the cache.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "placement/placed_cluster.h"
#include "sched/scheduler.h"
#include "sched/testing/recording_sink.h"

namespace shoal {
namespace {

class PromptResultsTest : public testing::Test {
 protected:
  void open(const std::string& family) {
    auto model = OpenModel(TinyCheckpoint(family));
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
    for (int32_t i = 0; i < 75; ++i)
      prompt_.push_back(static_cast<int32_t>((i * i + 11 * i + 3) % model_.spec.vocabulary));
  }
  static std::shared_ptr<RecordingSink> ask(Scheduler& scheduler, GenerationRequest request) {
    auto sink = std::make_shared<RecordingSink>();
    request.deadline = Deadline::after(std::chrono::seconds(120));
    EXPECT_TRUE(scheduler.submit(std::move(request), sink).ok());
    EXPECT_TRUE(sink->wait_end());
    EXPECT_TRUE(sink->error().ok()) << ToString(sink->error());
    return sink;
  }

  OpenedModel model_;
  std::vector<int32_t> prompt_;
};

TEST_F(PromptResultsTest, TokensAreScoredAsTheyWereWhenTheyWereGenerated) {
  for (const char* family : {"qwen3_moe", "qwen3_5_moe"}) {
    open(family);
    std::vector<SampledToken> first;
    for (const Placed& placed : Placements()) {
      for (const int rows : {256, 9}) {
        PlacedCluster cluster(model_, placed, 64, 1);
        Scheduler scheduler(cluster.engine(), {.batch = {.rows_per_step = rows}});
        GenerationRequest request{.prompt = prompt_, .max_tokens = 12, .score_prompt = true};
        request.sampling = {.temperature = 0, .top_logprobs = 3};
        const auto told = ask(scheduler, request);
        GenerationRequest longer{.prompt = prompt_, .score_prompt = true};
        longer.sampling = request.sampling;
        const std::vector<int32_t> generated = told->tokens();
        longer.prompt.insert(longer.prompt.end(), generated.begin(), generated.end());
        const auto again = ask(scheduler, longer);
        std::vector<SampledToken> expected = told->scores();
        ASSERT_EQ(expected.size(), prompt_.size() - 1);
        for (const SampledToken& token : told->sampled()) expected.push_back(token);
        EXPECT_EQ(again->scores(), expected) << family << ", " << placed.name << ", " << rows;
        if (first.empty()) first = expected;
        EXPECT_EQ(expected, first) << family << ", " << placed.name << ", " << rows;
      }
    }
    prompt_.clear();
  }
}

TEST_F(PromptResultsTest, AnEmbeddingHasTheSameBitsWhereverItIsComputed) {
  open("qwen3_moe");
  for (const Pool pool : {Pool::kLast, Pool::kMean}) {
    std::vector<float> first;
    for (const Placed& placed : Placements()) {
      for (const int rows : {256, 9, 33}) {
        PlacedCluster cluster(model_, placed, 64, 1);
        Scheduler scheduler(cluster.engine(), {.batch = {.rows_per_step = rows}});
        const auto cold = ask(scheduler, {.prompt = prompt_, .pool = pool})->embedding();
        ASSERT_EQ(std::ssize(cold), model_.spec.width);
        if (first.empty()) first = cold;
        EXPECT_EQ(cold, first) << placed.name << ", " << rows;
        EXPECT_EQ(ask(scheduler, {.prompt = prompt_, .pool = pool})->embedding(),
                  first);  // With a warm cache.
      }
    }
  }
}

TEST_F(PromptResultsTest, TheMeanOfOneRowIsThatRow) {
  open("qwen3_moe");
  PlacedCluster cluster(model_, Placements()[1], 64, 1);
  Scheduler scheduler(cluster.engine(), {});
  const auto last = ask(scheduler, {.prompt = {17}, .pool = Pool::kLast})->embedding();
  EXPECT_EQ(ask(scheduler, {.prompt = {17}, .pool = Pool::kMean})->embedding(), last);
  EXPECT_NE(ask(scheduler, {.prompt = {18}, .pool = Pool::kMean})->embedding(), last);
}

}  // namespace
}  // namespace shoal
