#include "cluster/supervisor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

#include "base/status.h"
#include "wire/inproc.h"

namespace shoal {
namespace {

/// A cluster of one node that can be told to fail.
class FakeHost final : public SessionHost {
 public:
  absl::Status open(const Plan& plan, PipelineEngine& engine) override {
    epochs.push_back(plan.epoch.value);
    if (refusals > 0) {
      --refusals;
      return Unavailable("node 'b' is away");
    }
    transport = InprocNetwork(1).open(NodeId{0});
    engine.open(plan, transport.get(), {.blocks = 1, .context = 32});
    return absl::OkStatus();
  }
  void close(PipelineEngine& engine, const absl::Status& why) override {
    engine.close(why);
    ++closes;
  }

  absl::Status prepare(const Plan&) override {
    ++prepares;
    while (hold && !stopped) std::this_thread::yield();
    const std::lock_guard lock(mutex);
    return prepared;
  }
  absl::Status open_ahead(const Plan&) override {
    ++aheads;
    const std::lock_guard lock(mutex);
    if (aheads > aheads_that_fail) return absl::OkStatus();
    return ahead;
  }
  void interrupt() override { stopped = true; }
  bool on_lost(NodeId node, const absl::Status& why) override {
    lost.emplace_back(node, why);
    return true;
  }

  std::vector<uint32_t> epochs;
  std::vector<std::pair<NodeId, absl::Status>> lost;  // Read after stop().
  std::atomic<int> prepares{0};
  std::atomic<bool> hold{false};  // prepare() waits so long.
  std::atomic<bool> stopped{false};
  std::atomic<int> aheads{0};
  std::mutex mutex;
  absl::Status prepared;
  absl::Status ahead;  ///< What open_ahead() says, so many times.
  std::atomic<int> aheads_that_fail{std::numeric_limits<int>::max()};
  std::atomic<int> refusals{0};
  std::atomic<int> closes{0};
  std::unique_ptr<Transport> transport;
};

Plan OneNode() {
  Plan plan;
  plan.nodes = {{"a", ""}};
  plan.stages = {{NodeId{0}, {0, 1}}};
  plan.experts.resize(1);
  return plan;
}

/// OneNode, which fails with `why` the first three times that it is asked for.
PlanSource FourthTime(std::atomic<int>& asked, absl::Status why) {
  return [&asked, why = std::move(why)]() -> absl::StatusOr<Plan> {
    if (++asked <= 3) return why;
    return OneNode();
  };
}

void WaitUntilUp(const PipelineEngine& engine, uint64_t generation) {
  const Deadline deadline = Deadline::after_ms(10000);
  while (!deadline.expired()) {
    const Engine::State state = engine.state();
    if (state.status.ok() && state.generation >= generation) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  ADD_FAILURE() << "the engine did not come up: " << ToString(engine.state().status);
}

constexpr RetryPauses kShort{std::chrono::milliseconds(5), std::chrono::milliseconds(10)};

TEST(Supervisor, TheFirstAttemptIsRepeatedUntilItSucceedsAndItsErrorIsTheEnginesState) {
  FakeHost host;
  host.refusals = 1000;
  PipelineEngine engine;
  Supervisor supervisor(host, engine, OneNode, kShort);
  supervisor.start();
  const Deadline deadline = Deadline::after_ms(10000);
  while (supervisor.last_attempt().ok() && !deadline.expired()) std::this_thread::yield();
  EXPECT_EQ(supervisor.last_attempt(), Unavailable("node 'b' is away"));
  EXPECT_EQ(engine.state().status, Unavailable("node 'b' is away"));
  EXPECT_EQ(engine.state().generation, 0u);
  host.refusals = 0;
  WaitUntilUp(engine, 1);
}

TEST(Supervisor, APlanThatCannotBeMadeNowIsAskedForAgainAndTakesNoEpoch) {
  FakeHost host;
  PipelineEngine engine;
  std::atomic<int> asked = 0;
  Supervisor supervisor(host, engine, FourthTime(asked, ResourceExhausted("node 'b' has no room")), kShort);
  supervisor.start();
  WaitUntilUp(engine, 1);
  supervisor.stop();
  EXPECT_EQ(asked, 4);
  EXPECT_EQ(host.epochs, std::vector<uint32_t>{1});
}

TEST(Supervisor, TheStateSaysWhyTheLastAttemptFailedNotWhyTheSessionEnded) {
  FakeHost host;
  PipelineEngine engine;
  Supervisor supervisor(host, engine, OneNode, kShort);
  supervisor.start();
  WaitUntilUp(engine, 1);
  host.refusals = 1000;
  engine.on_peer_down(NodeId{0}, Unavailable("gone"));
  const Deadline deadline = Deadline::after_ms(10000);
  while (supervisor.last_attempt().ok() && !deadline.expired()) std::this_thread::yield();
  EXPECT_EQ(engine.state().status, Unavailable("node 'b' is away"));
}

TEST(Supervisor, ALostSessionIsBuiltAgainWithTheNextEpochUntilThatSucceeds) {
  FakeHost host;
  PipelineEngine engine;
  Supervisor supervisor(host, engine, OneNode, kShort);
  supervisor.start();
  WaitUntilUp(engine, 1);

  host.refusals = 3;
  engine.on_peer_down(NodeId{0}, Unavailable("gone"));
  WaitUntilUp(engine, 2);
  supervisor.stop();
  EXPECT_EQ(host.epochs, (std::vector<uint32_t>{1, 2, 3, 4, 5}));
  EXPECT_GE(host.closes, 2);
  EXPECT_EQ(engine.state().status.code(), absl::StatusCode::kCancelled);
}

TEST(Supervisor, TheHostIsToldOnceOfANodeThatTheSessionGoesOnWithout) {
  FakeHost host;
  PipelineEngine engine;
  std::atomic<int> asked = 0;
  Supervisor supervisor(
      host, engine,
      [] {
        Plan plan = OneNode();
        plan.nodes.push_back({"b", ""});
        plan.experts[0] = {{NodeId{1}, {NodeId{0}}}};
        return plan;
      },
      kShort,
      [&]() -> std::optional<Replan> {
        ++asked;
        return std::nullopt;
      });
  supervisor.start();
  WaitUntilUp(engine, 1);
  engine.on_peer_down(NodeId{1}, Unavailable("gone"));
  const Deadline deadline = Deadline::after_ms(10000);
  for (const int before = asked; asked < before + 2 && !deadline.expired();) std::this_thread::yield();
  EXPECT_TRUE(engine.state().status.ok());
  EXPECT_EQ(engine.state().copy_rounds, 1u);
  supervisor.stop();
  ASSERT_EQ(host.lost.size(), 1u);
  EXPECT_EQ(host.lost[0].first, NodeId{1});
  EXPECT_EQ(host.epochs, std::vector<uint32_t>{1});
}

TEST(Supervisor, ASessionEndsForAnotherPlanWhenTheAdviceSaysSoAndIsBuiltAtOnce) {
  FakeHost host;
  PipelineEngine engine;
  std::atomic<bool> better = false;
  std::atomic<int> adopted = 0;
  // Any pause would outlast the test.
  Supervisor supervisor(host, engine, OneNode, {std::chrono::hours(1), std::chrono::hours(1)},
                        [&]() -> std::optional<Replan> {
                          if (!better.exchange(false)) return std::nullopt;
                          return Replan{"node 'b' is back", OneNode(), {}, [&] { ++adopted; }};
                        });
  supervisor.start();
  WaitUntilUp(engine, 1);
  EXPECT_EQ(host.closes, 0);
  better = true;
  WaitUntilUp(engine, 2);
  EXPECT_EQ(host.closes, 1);
  supervisor.stop();
  EXPECT_EQ(host.epochs, (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(host.prepares, 1);
  EXPECT_EQ(adopted, 1);
}

/// A session that is always to end for another plan.
class Moving : public testing::Test {
 protected:
  void SetUp() override {
    host_.hold = true;
    supervisor_.start();
    WaitUntilUp(engine_, 1);
    wait_for([this] { return host_.prepares > 0; });
  }
  void TearDown() override { supervisor_.stop(); }
  static void wait_for(const std::function<bool()>& condition) {
    const Deadline deadline = Deadline::after_ms(10000);
    while (!condition() && !deadline.expired()) std::this_thread::yield();
    EXPECT_TRUE(condition());
  }
  /// Advice is asked for, and what came of it looked at, several times.
  static void while_nothing_happens() { std::this_thread::sleep_for(std::chrono::milliseconds(150)); }

  FakeHost host_;
  PipelineEngine engine_;
  std::atomic<Replan::Turn> turn_ = Replan::Turn::kGo;
  Supervisor supervisor_{host_, engine_, OneNode, kShort, [this]() -> std::optional<Replan> {
                           return Replan{"node 'b' is drained", OneNode(), [this] { return turn_.load(); }};
                         }};
};

TEST_F(Moving, TheSessionServesWhileNodesLoad) {
  while_nothing_happens();
  EXPECT_TRUE(engine_.state().status.ok());
  EXPECT_EQ(engine_.state().generation, 1u);
  ASSERT_TRUE(supervisor_.move().has_value());
  EXPECT_EQ(supervisor_.move()->why, "node 'b' is drained");
  EXPECT_EQ(host_.prepares, 1);
  host_.hold = false;
  WaitUntilUp(engine_, 2);
}

TEST_F(Moving, WhatIsLoadedWaitsUntilTheSessionMayEnd) {
  turn_ = Replan::Turn::kWait;
  host_.hold = false;
  while_nothing_happens();
  EXPECT_EQ(engine_.state().generation, 1u);
  EXPECT_EQ(host_.prepares, 1);
  turn_ = Replan::Turn::kGo;
  WaitUntilUp(engine_, 2);
}

TEST_F(Moving, APlanThatIsNotTheBestAnyMoreIsDropped) {
  turn_ = Replan::Turn::kDrop;
  host_.hold = false;
  wait_for([this] { return host_.prepares > 1; });  // Advice was asked for again.
  EXPECT_EQ(engine_.state().generation, 1u);
}

TEST_F(Moving, WhereLoadingFailsTheSessionGoesOnAndSaysWhy) {
  {
    const std::lock_guard lock(host_.mutex);
    host_.prepared = Unavailable("node 'c' is away");
  }
  host_.hold = false;
  wait_for([this] { return supervisor_.move().has_value() && !supervisor_.move()->failed.ok(); });
  EXPECT_EQ(supervisor_.move()->failed, Unavailable("node 'c' is away"));
  while_nothing_happens();
  EXPECT_EQ(engine_.state().generation, 1u);
  EXPECT_EQ(host_.prepares, 1);  // Not again at once.
}

TEST_F(Moving, WhereTheNextSessionCannotBeOpenedTheSessionGoesOnAndSaysWhy) {
  {
    const std::lock_guard lock(host_.mutex);
    host_.ahead = Unavailable("node 'c' does not reach node 'b'");
  }
  host_.hold = false;
  wait_for([this] { return supervisor_.move().has_value() && !supervisor_.move()->failed.ok(); });
  EXPECT_EQ(supervisor_.move()->failed, Unavailable("node 'c' does not reach node 'b'"));
  while_nothing_happens();
  EXPECT_EQ(engine_.state().generation, 1u);
  EXPECT_EQ(host_.closes, 0);
}

TEST_F(Moving, LinksThatCouldNotBeOpenedAreTriedAgainSoon) {
  {
    const std::lock_guard lock(host_.mutex);
    host_.ahead = Unavailable("node 'c' is busy with another call");
    host_.aheads_that_fail = 2;
  }
  host_.hold = false;
  WaitUntilUp(engine_, 2);  // Nodes that fail to load are left alone for longer than it waits.
  EXPECT_GE(host_.aheads, 3);
}

TEST_F(Moving, WhereBothDoNotFitTheSessionEndsBeforeNodesLoad) {
  {
    const std::lock_guard lock(host_.mutex);
    host_.prepared = ResourceExhausted("node 'c' has no room for both");
  }
  host_.hold = false;
  WaitUntilUp(engine_, 2);
  EXPECT_EQ(host_.aheads, 0);  // Nodes would not hold their shards.
}

TEST_F(Moving, ALossMeanwhileIsMendedAtOnceAndWhatWasLoadedForTheOldSessionIsNotBelieved) {
  engine_.on_peer_down(NodeId{0}, Unavailable("gone"));
  WaitUntilUp(engine_, 2);
  EXPECT_EQ(host_.prepares, 1);
  turn_ = Replan::Turn::kWait;
  host_.hold = false;
  wait_for([this] { return host_.prepares > 1; });  // Asked anew.
  EXPECT_EQ(engine_.state().generation, 2u);
}

TEST(Supervisor, APauseEndsWhenAPlanMayBeAnotherOne) {
  FakeHost host;
  PipelineEngine engine;
  std::atomic<int> asked = 0;
  Supervisor supervisor(host, engine, FourthTime(asked, Unavailable("node 'b' is waited for")),
                        {std::chrono::hours(1), std::chrono::hours(1)}, {},
                        [] { return std::chrono::milliseconds(1); });
  supervisor.start();
  WaitUntilUp(engine, 1);
  EXPECT_EQ(asked, 4);
}

}  // namespace
}  // namespace shoal
