#include "exec/pipeline_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <thread>

#include "base/status.h"
#include "exec/step_codec.h"
#include "wire/inproc.h"

namespace shoal {
namespace {

using testing::HasSubstr;

Plan TwoNodePlan() {
  Plan plan;
  plan.nodes = {{"head", ""}, {"tail", ""}};
  plan.stages = {{NodeId{0}, {0, 2}}, {NodeId{1}, {2, 5}}};
  plan.experts.resize(5);
  return plan;
}

/// An engine with node 0's executor, and a node 1 that the test plays.
class PipelineEngineTest : public testing::Test {
 protected:
  PipelineEngineTest()
      : network_(2),
        head_(network_.open(NodeId{0})),
        tail_(network_.open(NodeId{1})),
        engine_({std::chrono::milliseconds(20), std::chrono::milliseconds(200)}) {
    engine_.open(TwoNodePlan(), head_.get(),
                 {.blocks = 8, .context = 100, .steps_in_flight = 2, .vocabulary = 10});
    executor_ = std::thread([this] {
      while (!stop_) {
        engine_.tick();
        auto event = head_->receive(Deadline::after_ms(5));
        if (!event.ok()) continue;
        if (event->kind == Event::Kind::kPeerDown) engine_.on_peer_down(event->from, event->status);
        if (event->kind != Event::Kind::kFrame) continue;
        if (IsProbe(event->frame)) {
          (void)head_->send(NodeId{0}, EncodeProgress(Epoch{1}, {StepId{1}, LayerId{1}}),
                            Deadline::after_ms(100));
        } else if (event->frame.header.kind == FrameKind::kStep) {
          (void)head_->send(NodeId{1}, event->frame,
                            Deadline::after_ms(100));  // A first stage that computes nothing.
        } else {
          engine_.on_frame(event->from, event->frame);
        }
      }
    });
  }
  ~PipelineEngineTest() override {
    stop_ = true;
    executor_.join();
    engine_.close(Cancelled("test over"));
  }

  void submit(uint64_t id) {
    Step step;
    step.id = StepId{id};
    step.slices = {{SeqId{1}, 0, {1}, {BlockId{0}}, 0}};
    engine_.submit(step, [this, id](absl::StatusOr<StepResult> result) {
      const std::lock_guard lock(mutex_);
      ended_.emplace_back(id, result.status());
      changed_.notify_all();
    });
  }
  std::vector<std::pair<uint64_t, absl::Status>> wait_for(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return ended_.size() >= count; });
    return ended_;
  }
  Frame next_step() {
    while (true) {
      auto event = tail_->receive(Deadline::after_ms(5000));
      if (!event.ok()) return {};
      if (event->kind == Event::Kind::kFrame && event->frame.header.kind == FrameKind::kStep)
        return event->frame;
    }
  }
  void answer(uint64_t id) {
    StepResult result;
    result.id = StepId{id};
    ASSERT_TRUE(tail_->send(NodeId{0}, EncodeResult(Epoch{1}, result), Deadline::after_ms(1000)).ok());
  }

  InprocNetwork network_;
  std::unique_ptr<Transport> head_;
  std::unique_ptr<Transport> tail_;
  PipelineEngine engine_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<uint64_t, absl::Status>> ended_;
  std::thread executor_;
};

TEST_F(PipelineEngineTest, SeveralStepsInFlightEndInTheirOrder) {
  submit(1);
  submit(2);
  EXPECT_EQ(next_step().header.step, StepId{1});
  EXPECT_EQ(next_step().header.step, StepId{2});
  answer(1);
  answer(2);
  const auto ended = wait_for(2);
  ASSERT_EQ(ended.size(), 2u);
  EXPECT_EQ(ended[0], std::make_pair(uint64_t{1}, absl::OkStatus()));
  EXPECT_EQ(ended[1], std::make_pair(uint64_t{2}, absl::OkStatus()));
}

TEST_F(PipelineEngineTest, ASilentNodeIsNamedWithLayerAndStepAndFailsAllStepsOut) {
  submit(1);
  submit(2);
  const auto ended = wait_for(2);
  ASSERT_EQ(ended.size(), 2u);
  for (const auto& [id, status] : ended) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(status), HasSubstr("node 'tail' (layers [2, 5)), layer 2, step 1: no heartbeat"));
  }
  EXPECT_EQ(engine_.suspected(), NodeId{1});
  EXPECT_FALSE(engine_.state().status.ok());
}

TEST_F(PipelineEngineTest, ASlowNodeThatAnswersProbesIsNotGivenUp) {
  submit(1);
  const auto until = Clock::now() + std::chrono::milliseconds(700);  // Several times the timeout.
  while (Clock::now() < until) {
    auto event = tail_->receive(Deadline::after_ms(10));
    if (event.ok() && event->kind == Event::Kind::kFrame && IsProbe(event->frame)) {
      (void)tail_->send(NodeId{0}, EncodeProgress(Epoch{1}, {StepId{1}, LayerId{3}}),
                        Deadline::after_ms(100));
    }
  }
  EXPECT_TRUE(engine_.state().status.ok());
  answer(1);
  EXPECT_EQ(wait_for(1).at(0).second, absl::OkStatus());
}

TEST_F(PipelineEngineTest, ABrokenLinkFailsAtOnceAndLaterStepsGetTheSameReason) {
  submit(1);
  next_step();
  network_.break_link(NodeId{0}, NodeId{1});
  const auto ended = wait_for(1);
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_THAT(Message(ended[0].second), HasSubstr("node 'tail'"));
  Step late;
  late.id = StepId{2};
  absl::Status got;
  engine_.submit(late, [&](absl::StatusOr<StepResult> result) { got = result.status(); });
  EXPECT_EQ(got, ended[0].second);
}

TEST_F(PipelineEngineTest, AnErrorSuspectsTheNodeThatItNamesOrElseItsSender) {
  submit(1);
  next_step();
  const absl::Status lost = Unavailable("node 'head' lost: gone, while node 'tail' waited for its experts");
  ASSERT_TRUE(tail_
                  ->send(NodeId{0}, EncodeStepError(Epoch{1}, StepId{1}, LayerId{2}, {lost, NodeId{0}}),
                         Deadline::after_ms(1000))
                  .ok());
  EXPECT_EQ(wait_for(1).at(0).second, lost);
  EXPECT_EQ(engine_.suspected(), NodeId{0});
}

TEST_F(PipelineEngineTest, AnErrorThatNamesANodeOutsideThePlanSuspectsItsSender) {
  submit(1);
  next_step();
  ASSERT_TRUE(tail_
                  ->send(NodeId{0},
                         EncodeStepError(Epoch{1}, StepId{1}, LayerId{2}, {Internal("?"), NodeId{7}}),
                         Deadline::after_ms(1000))
                  .ok());
  EXPECT_EQ(wait_for(1).at(0).second.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(engine_.suspected(), NodeId{1});
}

TEST_F(PipelineEngineTest, AResultOutOfOrderIsAFailureAndNotBelieved) {
  submit(1);
  submit(2);
  answer(2);
  const auto ended = wait_for(2);
  ASSERT_EQ(ended.size(), 2u);
  EXPECT_THAT(Message(ended[0].second), HasSubstr("result of step 2 arrived, expected step 1"));
}

}  // namespace
}  // namespace shoal
