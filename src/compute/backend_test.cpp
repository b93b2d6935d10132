#include "compute/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/status.h"
#include "compute/cpu_backend.h"
#include "compute/testing/fake_backend.h"
#include "compute/testing/local_model.h"
#include "compute/testing/session_experts.h"
#include "convert/testing/checkpoints.h"
#include "models/spec.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kBlocks = 4;

std::shared_ptr<const ResolvedWeights> WeightsOf(std::string_view family) {
  return *ResolvedWeights::Open(TinyCheckpoint(family, AffineFormat{4, 64}));
}

BackendLoad Whole(std::shared_ptr<const ResolvedWeights> weights) {
  const ModelSpec& spec = weights->spec();
  BackendLoad load;
  load.stage = {.layers = {0, spec.layer_count()}, .embed = true, .head = true};
  for (const LayerSpec& layer : spec.layers) load.experts.push_back(AllExperts(layer));
  load.weights = std::move(weights);
  return load;
}

/// One sequence on a whole model in one session.
class Sequence {
 public:
  Sequence(Backend& backend, BackendLoad load) {
    model_ = *backend.load(load);
    const int slots = KeepsState(spec()) ? 2 : 0;
    session_ = *model_->open({.blocks = kBlocks, .state_slots = slots, .rows_max = 128});
    exchange_ = std::make_unique<SessionExperts>(*session_);
  }

  const ModelSpec& spec() const { return model_->spec(); }

  /// Appends tokens, and gives the logits [T, V] of their rows.
  std::vector<float> append(std::span<const int32_t> tokens) {
    const auto rows = std::ssize(tokens);
    const StateWrite write{static_cast<int32_t>(length_ + rows), SlotId{static_cast<int32_t>(++steps_ % 2)}};
    StepSlice slice{.row_begin = 0, .rows = rows, .position = length_, .blocks = blocks_};
    if (KeepsState(spec())) {
      slice.state_from = length_ == 0 ? kNoState : SlotId{static_cast<int32_t>((steps_ + 1) % 2)};
      slice.state_to = {&write, 1};
    }
    hidden_.resize(static_cast<size_t>(rows * spec().width));
    const MatView<float> x(hidden_.data(), rows, spec().width);
    StageStep step;
    step.slices = {&slice, 1};
    step.experts = exchange_.get();
    EXPECT_EQ(session_->embed(tokens, x), absl::OkStatus());
    EXPECT_EQ(session_->forward(step, x), absl::OkStatus());
    length_ += rows;
    std::vector<float> logits(static_cast<size_t>(rows * spec().vocabulary));
    EXPECT_EQ(session_->read_logits(x, MatView<float>(logits.data(), rows, spec().vocabulary)),
              absl::OkStatus());
    return logits;
  }

  /// The greedy token behind the last row.
  int32_t greedy() {
    const float* last = hidden_.data() + hidden_.size() - static_cast<size_t>(spec().width);
    EXPECT_EQ(session_->head(MatView<const float>(last, 1, spec().width), 2), absl::OkStatus());
    return session_->sample(2, {SamplingParams{.temperature = 0}, TokenHistory{}, length_, {}})->id;
  }

 private:
  std::unique_ptr<BackendModel> model_;
  std::unique_ptr<BackendSession> session_;
  std::unique_ptr<SessionExperts> exchange_;
  const std::vector<BlockId> blocks_ = {BlockId{2}, BlockId{0}, BlockId{3}, BlockId{1}};
  std::vector<float> hidden_;
  int64_t length_ = 0;
  int steps_ = 0;
};

std::vector<int32_t> Prompt(const ModelSpec& spec) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 40; ++i) prompt.push_back((i * 29 + 5) % static_cast<int32_t>(spec.vocabulary));
  return prompt;
}

TEST(CpuBackend, GivesTheBitsOfStagesAndExpertsCalledByHand) {
  for (const char* family : {"qwen3_moe", "qwen3_5_moe"}) {
    SCOPED_TRACE(family);
    CpuBackend backend({.isa = SupportedIsas().back(), .threads = 2});
    Sequence sequence(backend, Whole(WeightsOf(family)));
    const std::vector<int32_t> prompt = Prompt(sequence.spec());
    auto by_hand = LocalModel::Load(TinyCheckpoint(family, AffineFormat{4, 64}), {});
    ASSERT_TRUE(by_hand.ok());
    const auto expected = (*by_hand)->run(prompt, 3);
    ASSERT_TRUE(expected.ok());
    const std::vector<float> logits = sequence.append(prompt);
    ASSERT_EQ(logits.size(), expected->logits.size());
    EXPECT_EQ(std::memcmp(logits.data(), expected->logits.data(), logits.size() * sizeof(float)), 0);
    for (const int32_t token : expected->greedy) {
      EXPECT_EQ(sequence.greedy(), token);
      sequence.append({&token, 1});
    }
  }
}

TEST(CpuBackend, LeavesTheCpusToASessionOnlyWhereThereIsOne) {
  CpuBackend backend({});
  std::set<std::thread::id> threads;
  BackendLoad load = Whole(WeightsOf("qwen3_moe"));
  load.progress = [&](int64_t, int64_t) { threads.insert(std::this_thread::get_id()); };
  const auto first = backend.load(load);
  const auto second = backend.load(load);  // The first one's weights are still there.
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_THAT(threads, testing::ElementsAre(std::this_thread::get_id()));
  threads.clear();
  load.beside_session = true;
  ASSERT_TRUE(backend.load(load).ok());
  EXPECT_THAT(threads, testing::Not(testing::Contains(std::this_thread::get_id())));
}

TEST(CpuBackend, ALoadEndsWhenItIsCancelled) {
  CpuBackend backend({});
  BackendLoad load = Whole(WeightsOf("qwen3_moe"));
  std::atomic<int> asked{0};
  load.cancelled = [&] { return ++asked > 5; };
  EXPECT_EQ(backend.load(load).status().code(), absl::StatusCode::kCancelled);
  EXPECT_LE(asked, 10);
  load.cancelled = {};
  EXPECT_TRUE(backend.load(load).ok());
}

TEST(FakeBackend, GivesItsTokensHoweverThePromptIsCut) {
  FakeBackend backend;
  const auto weights = WeightsOf("qwen3_moe");
  const std::vector<int32_t> prompt = Prompt(weights->spec());
  const std::vector<int32_t> expected = FakeGreedy(weights->spec(), prompt, 4);
  EXPECT_NE(expected, FakeGreedy(weights->spec(), {prompt.rbegin(), prompt.rend()}, 4));
  for (const size_t chunk : {size_t{7}, prompt.size()}) {
    Sequence sequence(backend, Whole(weights));
    for (size_t at = 0; at < prompt.size(); at += chunk) {
      sequence.append(std::span(prompt).subspan(at, std::min(chunk, prompt.size() - at)));
    }
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < expected.size(); ++i) {
      tokens.push_back(sequence.greedy());
      sequence.append({&tokens.back(), 1});
    }
    EXPECT_EQ(tokens, expected);
  }
}

TEST(Backend, OfTheCpuIsOfOneClassOnEveryInstructionSetAndTheFakeOfAnother) {
  for (const Isa isa : SupportedIsas()) {
    EXPECT_EQ(CpuBackend({.isa = isa}).numerics_class(),
              CpuBackend({.isa = Isa::kReference}).numerics_class());
  }
  EXPECT_NE(FakeBackend().numerics_class(), CpuBackend({}).numerics_class());
}

TEST(Backend, RefusesLayersAndFormatsThatItDoesNotComputeByName) {
  const auto refusal = [](std::string_view family, FakeBackend::Options options) {
    FakeBackend backend(std::move(options));
    const auto model = backend.load(Whole(WeightsOf(family)));
    EXPECT_EQ(model.status().code(), absl::StatusCode::kUnimplemented);
    return Message(model.status());
  };
  EXPECT_THAT(refusal("qwen3_moe", {.limits = {.rows_max = 8, .logit_rows = 1, .head_dim_max = 4}}),
              AllOf(HasSubstr("layer 0"), HasSubstr("shoal-fake/1"), HasSubstr("at most 4")));
  EXPECT_THAT(refusal("qwen3_5_moe", {}), AllOf(HasSubstr("keeps a state"), HasSubstr("shoal-fake/1")));
  EXPECT_THAT(refusal("deepseek_v32", {}),
              AllOf(HasSubstr("layer 0 picks the positions"), HasSubstr("shoal-fake/1")));
  const auto weights = WeightsOf("qwen3_moe");
  const auto matrix = std::ranges::find_if(
      weights->all(), [](const ResolvedWeight& weight) { return !weight.stored.is_vector; });
  EXPECT_THAT(
      refusal("qwen3_moe", {.refused = matrix->stored.format.dtype}),
      AllOf(HasSubstr(fmt::format("tensor '{}'", matrix->stored.source->name())), HasSubstr("shoal-fake/1")));
}

TEST(Backend, RefusesSessionsWithLongerStepsThanItTakes) {
  FakeBackend backend({.limits = {.rows_max = 8, .logit_rows = 1, .head_dim_max = 1024}});
  const auto model = *backend.load(Whole(WeightsOf("qwen3_moe")));
  const auto session = model->open({.blocks = 1, .rows_max = 9});
  EXPECT_EQ(session.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(session.status()), AllOf(HasSubstr("9 rows"), HasSubstr("at most 8")));
  EXPECT_TRUE(model->open({.blocks = 1, .rows_max = 8}).ok());
}

}  // namespace
}  // namespace shoal
