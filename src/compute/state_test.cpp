// Recurrent states: a failed step leaves them as they were, snapshots give the bits of the whole, and a state
// that is not the one asked for is refused. That chunks, batches and threads change no bit is
// invariance_test's matter.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "base/status.h"
#include "compute/testing/local_model.h"
#include "convert/testing/checkpoints.h"
#include "models/family.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> RandomTokens(int64_t count) {
  RandomStream random(9);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(331));
  return tokens;
}

std::vector<float> Step(LocalModel& model, int sequence, std::span<const int32_t> tokens) {
  const LocalSlice slice{sequence, tokens};
  const auto logits = model.step({&slice, 1});
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *logits : std::vector<float>();
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// Layers that keep a state, or cache positions, or both.
class RecurrentState : public ::testing::TestWithParam<const char*> {
 protected:
  static std::unique_ptr<LocalModel> Load(const LocalOptions& options) {
    auto model = LocalModel::Load(TinyCheckpoint(GetParam(), AffineFormat{4, 64}), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
};

TEST_P(RecurrentState, AFailedStepLeavesItAsItWas) {
  const auto model = Load({.split = {4, 3}});
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> tokens = RandomTokens(60);
  const std::span<const int32_t> all(tokens);
  Step(*model, 0, all.first(20));
  const std::vector<float> chunk = Step(*model, 0, all.subspan(20, 33));
  const std::vector<float> token = Step(*model, 0, all.subspan(53, 1));

  model->reset();
  Step(*model, 0, all.first(20));
  const auto fail_at = [&](int32_t layer, std::span<const int32_t> rows) {
    model->set_before_layer([layer](LayerId at) {
      return at.value == layer ? Unavailable("an owner of experts is gone") : absl::OkStatus();
    });
    const LocalSlice slice{0, rows};
    EXPECT_EQ(model->step({&slice, 1}).status().code(), absl::StatusCode::kUnavailable) << layer;
    model->set_before_layer({});
  };
  for (int32_t layer = 0; layer < 7; ++layer) fail_at(layer, all.subspan(20, 33));
  EXPECT_TRUE(SameBits(Step(*model, 0, all.subspan(20, 33)), chunk));
  for (int32_t layer = 6; layer >= 0; --layer) fail_at(layer, all.subspan(53, 1));
  EXPECT_TRUE(SameBits(Step(*model, 0, all.subspan(53, 1)), token));
}

TEST_P(RecurrentState, SnapshotsAtBlockBoundariesGiveTheBitsOfTheWhole) {
  const std::vector<int32_t> tokens = RandomTokens(104);
  const std::span<const int32_t> all(tokens);
  const auto plain = Load({});
  ASSERT_NE(plain, nullptr);
  const std::vector<float> expected = Step(*plain, 0, all.first(100));
  const std::vector<float> behind = Step(*plain, 0, all.subspan(100, 4));

  const auto model = Load({.snapshots = true});
  ASSERT_NE(model, nullptr);
  // That states are written on the way changes nothing of what comes behind them.
  EXPECT_TRUE(SameBits(Step(*model, 0, all.first(100)), expected));
  for (const int64_t position : {96, 32, 64}) {
    const int sequence = static_cast<int>(position);
    model->continue_from(0, sequence, position);
    const auto rest = std::span(expected).subspan(static_cast<size_t>(position * model->spec().vocabulary));
    EXPECT_TRUE(
        SameBits(Step(*model, sequence, all.subspan(static_cast<size_t>(position), 100 - position)), rest))
        << position;
  }
  // Neither the first sequence nor those that share its beginning disturb one another.
  EXPECT_TRUE(SameBits(Step(*model, 0, all.subspan(100, 4)), behind));
  EXPECT_TRUE(SameBits(Step(*model, 64, all.subspan(100, 4)), behind));
}

INSTANTIATE_TEST_SUITE_P(Families, RecurrentState, ::testing::Values("qwen3_5_moe", "falcon_h1", "jamba"),
                         [](const auto& name) { return std::string(name.param); });

/// One stage alone, given slots by hand.
class OneStage : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto weights = *ResolvedWeights::Open(TinyCheckpoint("qwen3_5_moe"));
    width_ = weights->spec().width;
    // The first layer alone keeps a state and has no remote experts to ask for: they are not reached here.
    stage_ = *Stage::Load(*weights, {.layers = {0, 1}}, pool_, {});
    cache_ = *KvCache::Create({0, 1}, stage_->kv_shapes(), DType::kF16, 4, 3);
  }

  /// 8 rows at `position`; whether the layer was reached.
  absl::Status run(int64_t position, SlotId from, SlotId to) {
    arena_.reset();
    const ComputeContext context{&SelectKernels(Isa::kReference), &pool_, &arena_, ActivationMode::kInt8,
                                 nullptr};
    const std::vector<BlockId> blocks = {BlockId{0}, BlockId{1}};
    const StateWrite write{static_cast<int32_t>(position + 8), to};
    const StepSlice slice{0, 8, position, blocks, false, from, {&write, 1}};
    std::vector<float> rows(static_cast<size_t>(8 * width_), 1.0f);
    StageStep step{.slices = {&slice, 1}};
    step.before_layer = [](LayerId) { return Cancelled("reached"); };
    return stage_->forward(context, step, *cache_, MatView<float>(rows.data(), 8, width_));
  }

  ThreadPool pool_{1};
  Arena arena_;
  int64_t width_ = 0;
  std::unique_ptr<Stage> stage_;
  std::unique_ptr<KvCache> cache_;
};

TEST_F(OneStage, ASlotWithAnotherStateIsRefused) {
  EXPECT_EQ(run(0, kNoState, SlotId{1}).code(), absl::StatusCode::kCancelled);
  // The step failed: its slot holds nothing, and is not to be read.
  const absl::Status none = run(8, SlotId{1}, SlotId{2});
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(none), HasSubstr("state slot 1: expected the state behind 8 tokens, found none"));
  cache_->set_state_position(SlotId{1}, 8);
  EXPECT_EQ(run(8, SlotId{1}, SlotId{2}).code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(Message(run(16, SlotId{1}, SlotId{2})), HasSubstr("behind 16 tokens, found that behind 8"));
  EXPECT_THAT(Message(run(8, kNoState, SlotId{2})), HasSubstr("behind 8 tokens"));
}

}  // namespace
}  // namespace shoal
