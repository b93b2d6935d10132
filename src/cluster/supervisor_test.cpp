#include "cluster/supervisor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

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

  void on_lost(NodeId node, const absl::Status& why) override { lost.emplace_back(node, why); }

  std::vector<uint32_t> epochs;
  std::vector<std::pair<NodeId, absl::Status>> lost;  // Read after stop().
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
  Supervisor supervisor(
      host, engine,
      [&]() -> absl::StatusOr<Plan> {
        if (++asked <= 3) return ResourceExhausted("node 'b' has no room");
        return OneNode();
      },
      kShort);
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
      [&]() -> std::optional<std::string> {
        ++asked;
        return std::nullopt;
      });
  supervisor.start();
  WaitUntilUp(engine, 1);
  engine.on_peer_down(NodeId{1}, Unavailable("gone"));
  const Deadline deadline = Deadline::after_ms(10000);
  for (const int before = asked; asked < before + 2 && !deadline.expired();) std::this_thread::yield();
  EXPECT_TRUE(engine.state().status.ok());
  supervisor.stop();
  ASSERT_EQ(host.lost.size(), 1u);
  EXPECT_EQ(host.lost[0].first, NodeId{1});
  EXPECT_EQ(host.epochs, std::vector<uint32_t>{1});
}

TEST(Supervisor, ASessionEndsForAnotherPlanWhenTheAdviceSaysSoAndIsBuiltAtOnce) {
  FakeHost host;
  PipelineEngine engine;
  std::atomic<bool> better = false;
  // Any pause would outlast the test.
  Supervisor supervisor(host, engine, OneNode, {std::chrono::hours(1), std::chrono::hours(1)},
                        [&]() -> std::optional<std::string> {
                          if (!better.exchange(false)) return std::nullopt;
                          return "node 'b' is back";
                        });
  supervisor.start();
  WaitUntilUp(engine, 1);
  EXPECT_EQ(host.closes, 0);
  better = true;
  WaitUntilUp(engine, 2);
  EXPECT_EQ(host.closes, 1);
  supervisor.stop();
  EXPECT_EQ(host.epochs, (std::vector<uint32_t>{1, 2}));
}

}  // namespace
}  // namespace shoal
