#include "exec/pipeline_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <optional>
#include <thread>

#include "base/status.h"
#include "exec/lost_notice.h"
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
          (void)head_->send(NodeId{0}, EncodeExecutorPosition(Epoch{1}, {StepId{1}, LayerId{1}}),
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

  void submit(uint64_t id, uint64_t generation = 1) {
    Step step;
    step.id = StepId{id};
    step.slices = {{SeqId{1}, 0, {1}, {BlockId{0}}, 0}};
    engine_.submit(generation, step, [this, id](absl::StatusOr<StepResult> result) {
      const std::lock_guard lock(mutex_);
      ended_.emplace_back(id, result.status());
      changed_.notify_all();
    });
  }
  /// A plan whose third node has experts alone, which the first has, too.
  static Plan WithReplica() {
    Plan plan = TwoNodePlan();
    plan.nodes.push_back({"spare", ""});
    plan.experts[1] = {{NodeId{2}, {NodeId{0}}}, {NodeId{0}, {NodeId{2}}}};
    return plan;
  }
  /// The session closes, and another opens with `blocks` blocks.
  void reopen(int blocks) {
    engine_.close(Unavailable("the session was closed"));
    engine_.open(TwoNodePlan(), head_.get(),
                 {.blocks = blocks, .context = 100, .steps_in_flight = 2, .vocabulary = 10});
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
      (void)tail_->send(NodeId{0}, EncodeExecutorPosition(Epoch{1}, {StepId{1}, LayerId{3}}),
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
  engine_.submit(1, late, [&](absl::StatusOr<StepResult> result) { got = result.status(); });
  EXPECT_EQ(got, ended[0].second);
}

TEST_F(PipelineEngineTest, ANodeWhoseExpertsOthersHoldIsDoneWithout) {
  engine_.close(Unavailable("for another plan"));
  engine_.open(WithReplica(), head_.get(),
               {.blocks = 8, .context = 100, .steps_in_flight = 2, .vocabulary = 10});
  submit(1, 2);
  next_step();
  engine_.on_peer_down(NodeId{2}, Unavailable("connection reset"));
  engine_.on_peer_down(NodeId{2}, Unavailable("again"));
  EXPECT_TRUE(engine_.state().status.ok());
  ASSERT_EQ(engine_.lost().size(), 1u);
  EXPECT_EQ(engine_.lost()[0].node, NodeId{2});
  EXPECT_THAT(Message(engine_.lost()[0].why),
              HasSubstr("node 'spare' (experts only), layer 0, step 1: connection reset"));
  std::optional<NodeId> told;  // So that it need not find out by waiting.
  while (!told.has_value()) {
    const auto event = tail_->receive(Deadline::after_ms(20'000));
    ASSERT_TRUE(event.ok());
    if (event->kind == Event::Kind::kFrame) told = LostNoticeOf(event->frame);
  }
  EXPECT_EQ(told, NodeId{2});
  answer(1);
  EXPECT_EQ(wait_for(1).at(0).second, absl::OkStatus());
  engine_.on_peer_down(NodeId{1}, Unavailable("connection reset"));
  EXPECT_THAT(Message(engine_.state().status), HasSubstr("node 'tail'"));
  EXPECT_EQ(engine_.suspected(), NodeId{1});
  engine_.close(Unavailable("over"));
  engine_.open(WithReplica(), head_.get(),
               {.blocks = 8, .context = 100, .steps_in_flight = 2, .vocabulary = 10});
  EXPECT_TRUE(engine_.lost().empty());
}

TEST_F(PipelineEngineTest, ASilentNodeWhoseExpertsOthersHoldIsDoneWithoutAndProbedNoMore) {
  engine_.close(Unavailable("for another plan"));
  InprocNetwork network(3);
  const auto head = network.open(NodeId{0});
  const auto tail = network.open(NodeId{1});
  const auto spare = network.open(NodeId{2});
  PipelineEngine engine({std::chrono::milliseconds(5), std::chrono::milliseconds(40)});
  engine.open(WithReplica(), head.get(),
              {.blocks = 8, .context = 100, .steps_in_flight = 2, .vocabulary = 10});
  Step step;
  step.id = StepId{1};
  engine.submit(1, step, [](const absl::StatusOr<StepResult>&) {});
  const auto answer_probes = [&](NodeId node) {  // The others are there.
    engine.on_frame(node, EncodeExecutorPosition(Epoch{1}, {StepId{1}, LayerId{1}}));
  };
  const Deadline deadline = Deadline::after_ms(20'000);
  while (engine.lost().empty() && !deadline.expired()) {
    engine.tick();
    answer_probes(NodeId{0});
    answer_probes(NodeId{1});
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_EQ(engine.lost().size(), 1u);
  EXPECT_THAT(Message(engine.lost()[0].why),
              HasSubstr("node 'spare' (experts only), layer 0, step 1: no heartbeat"));
  EXPECT_TRUE(engine.state().status.ok());
  while (spare->receive(Deadline::after_ms(0)).ok()) continue;
  for (int i = 0; i < 30; ++i) {
    engine.tick();
    answer_probes(NodeId{0});
    answer_probes(NodeId{1});
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_FALSE(spare->receive(Deadline::after_ms(0)).ok());
  engine.close(Cancelled("done"));
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

TEST_F(PipelineEngineTest, AStepOfAGenerationThatHasEndedIsRefusedAndTheNewOneServes) {
  submit(1);
  EXPECT_EQ(next_step().header.step, StepId{1});
  engine_.close(Unavailable("node 'tail' restarts"));
  EXPECT_EQ(wait_for(1).at(0).second, Unavailable("node 'tail' restarts"));
  reopen(4);
  const Engine::State state = engine_.state();
  EXPECT_EQ(state.generation, 2u);
  EXPECT_EQ(state.limits.blocks, 4);
  submit(2, 1);  // Was due in the old generation,
  submit(1, 1);  // has the number that is due in the new one,
  submit(1, 3);  // or belongs to one that never was.
  auto ended = wait_for(4);
  ASSERT_EQ(ended.size(), 4u);
  for (size_t i = 1; i < ended.size(); ++i) {
    EXPECT_EQ(ended[i].second.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(ended[i].second), HasSubstr("2 is up"));
  }
  EXPECT_TRUE(engine_.state().status.ok());
  submit(1, 2);
  EXPECT_EQ(next_step().header.step, StepId{1});
  answer(1);
  ended = wait_for(5);
  ASSERT_EQ(ended.size(), 5u);
  EXPECT_TRUE(ended[4].second.ok());
}

TEST_F(PipelineEngineTest, AStepThatIsNotDueIsRefusedAndTheSessionLives) {
  submit(3);
  const auto refused = wait_for(1);
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(refused[0].second), HasSubstr("step 3 was submitted, expected step 1"));
  submit(1);
  EXPECT_EQ(next_step().header.step, StepId{1});
  answer(1);
  EXPECT_TRUE(wait_for(2).at(1).second.ok());
}

TEST_F(PipelineEngineTest, AGenerationThatIsGivenUpEndsItsStepsAndAnOldOneIsNotMissed) {
  engine_.give_up(7, Internal("a result made no sense"));
  EXPECT_TRUE(engine_.state().status.ok());
  submit(1);
  engine_.give_up(1, Internal("a result made no sense"));
  EXPECT_EQ(wait_for(1).at(0).second, Internal("a result made no sense"));
  EXPECT_EQ(engine_.state().status, Internal("a result made no sense"));
}

TEST_F(PipelineEngineTest, AResultThatNamesANodeBeyondThePlanIsAFailure) {
  for (const int32_t node : {-1, 2, 1 << 30}) {
    reopen(8);
    const uint64_t generation = engine_.state().generation;
    submit(1, generation);
    StepResult result{.id = StepId{1}};
    result.timings = {{.node = NodeId{0}}, {.node = NodeId{node}}};
    ASSERT_TRUE(tail_->send(NodeId{0}, EncodeResult(Epoch{1}, result), Deadline::after_ms(1000)).ok());
    const auto ended = wait_for(generation - 1);
    ASSERT_EQ(ended.size(), generation - 1);
    EXPECT_THAT(Message(ended.back().second), HasSubstr(fmt::format("timing of node {}", node)));
  }
}

TEST_F(PipelineEngineTest, AReopenedSessionIsSafeFromSubmittersThatHaveNotNoticed) {
  std::atomic<bool> over{false};
  std::atomic<int> submitted{0};
  std::thread submitter([&] {
    while (!over) {
      const uint64_t generation = engine_.state().generation;
      for (uint64_t id = 1; id <= 3; ++id, ++submitted) submit(id, generation);
    }
  });
  for (int i = 0; i < 200; ++i) reopen(8);
  over = true;
  submitter.join();
  engine_.close(Unavailable("over"));
  EXPECT_EQ(wait_for(static_cast<size_t>(submitted)).size(), static_cast<size_t>(submitted));
}

TEST_F(PipelineEngineTest, WhatIsWantedOfAGenerationIsAskedForWhenItHasEnded) {
  EXPECT_EQ(engine_.state().keeps_caches, KeptCaches::kNone);
  const std::vector<CachedPlace> places = {{BlockId{3}, {1, 2}, 32}, {SlotId{0}, {1, 2}, 32}};
  engine_.set_state_listener([] {});
  engine_.want_caches(engine_.state().generation, places, std::chrono::seconds(3));  // It is up.
  engine_.close(Unavailable("the session was closed"));
  EXPECT_FALSE(engine_.wanted(Deadline::after_ms(1)).has_value());
  engine_.want_caches(engine_.state().generation + 1, places, std::chrono::seconds(3));
  EXPECT_FALSE(engine_.wanted(Deadline::after_ms(1)).has_value());
  std::thread later(
      [&] { engine_.want_caches(engine_.state().generation, places, std::chrono::seconds(3)); });
  const auto wanted = engine_.wanted(Deadline::after_ms(20'000));
  later.join();
  ASSERT_TRUE(wanted.has_value());
  EXPECT_EQ(wanted->places, places);
  EXPECT_EQ(wanted->worth, std::chrono::seconds(3));
  engine_.open(TwoNodePlan(), head_.get(), {.blocks = 8, .context = 100, .vocabulary = 10},
               KeptCaches::kWanted);
  EXPECT_EQ(engine_.state().keeps_caches, KeptCaches::kWanted);
  engine_.close(Unavailable("the session was closed"));
  EXPECT_FALSE(engine_.wanted(Deadline::after_ms(1)).has_value());  // That was of the one before.
}

TEST_F(PipelineEngineTest, WhereNobodyListensNobodyIsWaitedFor) {
  engine_.set_state_listener(nullptr);
  engine_.close(Unavailable("the session was closed"));
  EXPECT_FALSE(engine_.wanted(Deadline::after_ms(600'000)).has_value());
}

}  // namespace
}  // namespace shoal
