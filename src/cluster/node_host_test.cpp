// Several sessions of several models in one process, on one thread.
#include "cluster/node_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <set>
#include <string>
#include <thread>

#include "base/status.h"
#include "compute/testing/fake_backend.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "exec/pipeline_engine.h"
#include "wire/inproc.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr Duration kPatience = std::chrono::seconds(20);

/// Nodes of `spec`'s model that share its layers, and hold its experts by turns.
Plan PlanOf(const ModelSpec& spec, const std::vector<std::string>& names) {
  Plan plan;
  plan.epoch = Epoch{1};
  const auto nodes = std::ssize(names);
  for (int64_t i = 0; i < nodes; ++i) {
    plan.nodes.push_back({names[static_cast<size_t>(i)], ""});
    const Range layers{i * spec.layer_count() / nodes, (i + 1) * spec.layer_count() / nodes};
    plan.stages.push_back({NodeId{static_cast<int32_t>(i)}, layers});
  }
  plan.experts.resize(spec.layers.size());
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    const MoeSpec* moe = MoeOf(spec.layers[layer]);
    for (size_t e = 0; moe != nullptr && e < moe->experts.size(); ++e) {
      plan.experts[layer].push_back({NodeId{static_cast<int32_t>((layer + e) % names.size())}, {}});
    }
  }
  return plan;
}

std::vector<int32_t> PromptOf(int32_t first, int32_t count) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < count; ++i) prompt.push_back((first + i * 7) % 50);
  return prompt;
}

/// A model whose nodes a host has, and the coordinator of its session.
class Served {
 public:
  Served(NodeHost& host, std::string_view family, const std::vector<std::string>& names)
      : host_(host),
        weights_(*ResolvedWeights::Open(TinyCheckpoint(family))),
        plan_(PlanOf(weights_->spec(), names)),
        network_(static_cast<int>(names.size())) {}
  ~Served() { close(); }

  const ModelSpec& spec() const { return weights_->spec(); }
  HostedNode node(size_t i) const { return {plan_.nodes[i].name, weights_->checkpoint().hash()}; }

  NodeShard shard(size_t i) const { return ShardOf(plan_, NodeId{static_cast<int32_t>(i)}); }
  absl::Status prepare_node(size_t i) { return host_.prepare(node(i), weights_, shard(i), nullptr); }

  /// Opens node `i` of the session in the host.
  void open_node(size_t i) {
    ASSERT_EQ(host_.load(node(i), weights_, shard(i), nullptr), absl::OkStatus());
    open_loaded_node(i);
  }
  void open_loaded_node(size_t i) {
    const NodeId id{static_cast<int32_t>(i)};
    ASSERT_EQ(host_.open(node(i), {.session = session_,
                                   .plan = plan_,
                                   .node = id,
                                   .transport = network_.open(id),
                                   .limits = limits_,
                                   .expert_timeout = kPatience,
                                   .sink = i == 0 ? &engine_ : nullptr,
                                   .keep_from = keep_from_}),
              absl::OkStatus());
  }
  /// Opens another session of the same sequence, which is to go on from what `keep_from` left. Whether each node did.
  std::vector<bool> open_again(uint64_t session, uint64_t keep_from, int blocks = 4) {
    close();
    session_ = session;
    keep_from_ = keep_from;
    limits_.blocks = blocks;
    network_ = InprocNetwork(static_cast<int>(plan_.nodes.size()));
    steps_ = 0;
    open();
    std::vector<bool> keeps;
    for (size_t i = 0; i < plan_.nodes.size(); ++i) keeps.push_back(host_.keeps_cache(node(i)));
    return keeps;
  }
  void open() {
    for (size_t i = 0; i < plan_.nodes.size(); ++i) open_node(i);
    open_engine();
  }
  void open_engine() {
    engine_.open(plan_, host_.transport(node(0)), EngineLimitsOf(plan_, *host_.model(node(0)), limits_));
  }
  void close() {
    engine_.close(Cancelled("test over"));
    host_.close(session_);
  }
  InprocNetwork& network() { return network_; }
  /// The end of a node that the test plays.
  std::unique_ptr<Transport> play(int32_t i) { return network_.open(NodeId{i}); }

  /// Runs one step of `tokens` behind those of earlier ones; samples at its end.
  std::future<absl::StatusOr<StepResult>> submit(std::vector<int32_t> tokens) {
    Step step;
    step.id = StepId{++steps_};
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    if (steps_ == 1) {
      step.begins.push_back(
          {SeqId{1}, {.temperature = 0}, tokens_, static_cast<int32_t>(std::ssize(tokens_))});
    }
    SeqSlice slice;
    slice.id = SeqId{1};
    slice.position = position_;
    slice.blocks = {BlockId{3}, BlockId{1}, BlockId{0}, BlockId{2}};
    slice.sample_from = static_cast<int32_t>(tokens.size()) - 1;
    position_ += static_cast<int32_t>(tokens.size());
    slice.tokens = std::move(tokens);
    step.slices.push_back(std::move(slice));
    auto promise = std::make_shared<std::promise<absl::StatusOr<StepResult>>>();
    engine_.submit(engine_.state().generation, std::move(step),
                   [promise](absl::StatusOr<StepResult> got) { promise->set_value(std::move(got)); });
    return promise->get_future();
  }

  /// The token that a step ends with; -1 where it failed, or did not end.
  static int32_t TokenOf(std::future<absl::StatusOr<StepResult>> step) {
    if (step.wait_for(kPatience) != std::future_status::ready) return -1;
    const absl::StatusOr<StepResult> result = step.get();
    EXPECT_TRUE(result.ok()) << ToString(result.status());
    return result.ok() ? result->sequences.at(0).tokens.at(0).id : -1;
  }
  std::vector<int32_t> greedy(const std::vector<int32_t>& prompt, int count) {
    std::vector<int32_t> tokens = {TokenOf(submit(prompt))};
    while (std::ssize(tokens) < count && tokens.back() >= 0)
      tokens.push_back(TokenOf(submit({tokens.back()})));
    return tokens;
  }

 private:
  NodeHost& host_;
  std::shared_ptr<const ResolvedWeights> weights_;
  const Plan plan_;
  StepLimits limits_ = {
      .context = 128, .vocabulary = weights_->spec().vocabulary, .blocks = 4, .rows_max = 64};
  InprocNetwork network_;
  PipelineEngine engine_;
  uint64_t session_ = reinterpret_cast<uintptr_t>(this);
  uint64_t keep_from_ = 0;
  uint64_t steps_ = 0;
  int32_t position_ = 0;
  std::vector<int32_t> tokens_;  // Of all steps.
};

NodeHost::Options HostOptions(LayerHook hook = nullptr) {
  return {.make_backend = [](const HostedNode&) { return std::make_unique<FakeBackend>(); },
          .hook = std::move(hook)};
}

TEST(NodeHost, SessionsOfTwoModelsGiveTheirTokensFromOneThread) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  NodeHost host(HostOptions([&](LayerId, MatView<const float>) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  }));
  Served moe(host, "qwen3_moe", {"a0", "a1"});
  Served dense(host, "qwen3", {"b"});
  Served other(host, "olmoe", {"c0", "c1", "c2"});
  std::vector<std::future<std::vector<int32_t>>> runs;
  std::vector<std::vector<int32_t>> expected;
  int32_t first = 0;
  for (Served* served : {&moe, &dense, &other}) {
    served->open();
    const std::vector<int32_t> prompt = PromptOf(++first, 30);
    expected.push_back(FakeGreedy(served->spec(), prompt, 20));
    runs.push_back(std::async(std::launch::async, [=] { return served->greedy(prompt, 20); }));
  }
  for (size_t i = 0; i < runs.size(); ++i) EXPECT_EQ(runs[i].get(), expected[i]);
  EXPECT_EQ(threads.size(), 1u);
  for (const NodeHost::NodeReport& report : host.report()) EXPECT_TRUE(report.stats.running);
}

TEST(NodeHost, AStepGoesOnBetweenTheLayersOfAnother) {
  // The second model's step is submitted from within the first layer of the first one's.
  std::vector<std::string> order;
  std::function<void()> begin_second;
  NodeHost::Options options = HostOptions([&](LayerId layer, MatView<const float> x) {
    // One row is the second's, two rows are the first's.
    order.push_back(fmt::format("{}{}", x.rows == 2 ? "first" : "second", layer));
    if (auto begin = std::exchange(begin_second, nullptr)) begin();
  });
  NodeHost host(std::move(options));
  Served first(host, "qwen3_moe", {"a"});
  Served second(host, "qwen3", {"b"});
  first.open();
  second.open();
  std::future<absl::StatusOr<StepResult>> later;
  begin_second = [&] { later = second.submit({5}); };
  EXPECT_EQ(Served::TokenOf(first.submit({1, 2})), FakeGreedy(first.spec(), {1, 2}, 1)[0]);
  EXPECT_EQ(Served::TokenOf(std::move(later)), FakeGreedy(second.spec(), {5}, 1)[0]);
  first.close();
  second.close();
  const auto last_of_first = std::ranges::find(order, fmt::format("first{}", first.spec().layer_count() - 1));
  EXPECT_NE(std::find(order.begin(), last_of_first, "second0"), last_of_first)
      << fmt::format("{}", fmt::join(order, " "));
}

// All nodes answer probes: nobody but the two ends of the link can know.
TEST(NodeHost, AStepThatIsLostOnItsWayToTheNextStageEndsTheSession) {
  NodeHost host(HostOptions());
  Served served(host, "qwen3", {"a", "b", "c"});
  served.open();
  served.network().hang_link(NodeId{1}, NodeId{2});
  auto step = served.submit(PromptOf(0, 8));
  const auto sent = [&] { return host.links(served.node(1))->peers.at(NodeId{2}).frames_sent; };
  for (const Deadline deadline = Deadline::after(kPatience); sent() == 0 && !deadline.expired();) {
    std::this_thread::yield();
  }
  served.network().break_link(NodeId{1}, NodeId{2});
  ASSERT_EQ(step.wait_for(kPatience), std::future_status::ready);
  const absl::Status lost = step.get().status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(lost), AllOf(HasSubstr("node 'c' lost"), HasSubstr("steps of node 'b'"),
                                   HasSubstr("layer 4, at most step 1")));
}

TEST(NodeHost, ASessionThatWaitsForRemoteExpertsLetsAnotherRun) {
  NodeHost host(HostOptions());
  Served waiting(host, "qwen3_moe", {"asker", "owner"});
  Served other(host, "qwen3", {"other"});
  waiting.open_node(0);
  waiting.open_engine();
  other.open();
  const std::unique_ptr<Transport> owner = waiting.play(1);
  std::future<absl::StatusOr<StepResult>> step = waiting.submit(PromptOf(1, 30));
  const absl::StatusOr<Event> request = owner->receive(Deadline::after(kPatience));
  ASSERT_TRUE(request.ok()) << ToString(request.status());
  ASSERT_EQ(request->frame.header.kind, FrameKind::kExpertRequest);
  // The owner says nothing: only then is the other asked.
  const std::vector<int32_t> prompt = PromptOf(2, 30);
  EXPECT_EQ(other.greedy(prompt, 10), FakeGreedy(other.spec(), prompt, 10));
  EXPECT_EQ(step.wait_for(Duration::zero()), std::future_status::timeout);
  // And the one that waits still tells where it is.
  Frame probe = EncodeProbe(Epoch{1});
  ASSERT_EQ(owner->send(NodeId{0}, std::move(probe), Deadline::after(kPatience)), absl::OkStatus());
  const absl::StatusOr<Event> answer = owner->receive(Deadline::after(kPatience));
  ASSERT_TRUE(answer.ok()) << ToString(answer.status());
  EXPECT_EQ(answer->frame.header.kind, FrameKind::kPosition);
  EXPECT_EQ(answer->frame.header.step, StepId{1});
  owner->close();
  ASSERT_EQ(step.wait_for(kPatience), std::future_status::ready);
  EXPECT_THAT(Message(step.get().status()), HasSubstr("'owner'"));
}

TEST(NodeHost, NodesThatOwnEachOthersExpertsShareAThreadWithStepsInFlight) {
  NodeHost host(HostOptions());
  Served served(host, "qwen3_moe", {"a", "b"});
  served.open();
  // All at once: the second node runs a step while the first runs the next one, and each waits for the other.
  std::vector<std::future<absl::StatusOr<StepResult>>> steps;
  const std::vector<int32_t> tokens = PromptOf(3, 40);
  for (const int32_t token : tokens) steps.push_back(served.submit({token}));
  int32_t last = -1;
  for (auto& step : steps) last = Served::TokenOf(std::move(step));
  EXPECT_EQ(last, FakeGreedy(served.spec(), tokens, 1)[0]);
}

TEST(NodeHost, ASessionIsClosedAndOpenedWhileAnotherRuns) {
  NodeHost host(HostOptions());
  Served lasting(host, "qwen3_moe", {"a", "b"});
  lasting.open();
  const std::vector<int32_t> prompt = PromptOf(4, 30);
  auto run = std::async(std::launch::async, [&] { return lasting.greedy(prompt, 60); });
  for (int32_t i = 0; i < 10; ++i) {
    Served passing(host, "qwen3", {"c"});
    passing.open();
    EXPECT_EQ(passing.greedy({i}, 3), FakeGreedy(passing.spec(), {i}, 3));
    const auto unfinished = passing.submit({1});  // Closed with a step out.
    passing.close();
    EXPECT_EQ(host.transport(passing.node(0)), nullptr);
  }
  EXPECT_EQ(run.get(), FakeGreedy(lasting.spec(), prompt, 60));
}

TEST(NodeHost, NodesThatStandForMachinesHaveAThreadEach) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  NodeHost::Options options = HostOptions([&](LayerId, MatView<const float>) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  options.executors = HostThreads::kOneForEach;
  NodeHost host(std::move(options));
  Served served(host, "qwen3_moe", {"a", "b"});
  served.open();
  EXPECT_EQ(served.greedy({1, 2, 3}, 5), FakeGreedy(served.spec(), {1, 2, 3}, 5));
  EXPECT_EQ(threads.size(), 2u);
}

TEST(NodeHost, WhatIsPreparedBesideASessionBecomesTheNodesOwnWithTheNextOne) {
  NodeHost host({.make_backend = [](const HostedNode&) { return std::make_unique<FakeBackend>(); }});
  Served alone(host, "qwen3_moe", {"a"});
  alone.open();
  const std::vector<int32_t> prompt = PromptOf(5, 9);
  const std::vector<int32_t> expected = FakeGreedy(alone.spec(), prompt, 2);
  EXPECT_EQ(Served::TokenOf(alone.submit(prompt)), expected[0]);

  // The same node, by name and model, with half of the layers.
  Served pair(host, "qwen3_moe", {"a", "b"});
  EXPECT_EQ(pair.prepare_node(0), absl::OkStatus());
  EXPECT_TRUE(host.holds(alone.node(0), alone.shard(0)));
  EXPECT_TRUE(host.holds(pair.node(0), pair.shard(0)));
  EXPECT_EQ(Served::TokenOf(alone.submit({expected[0]})), expected[1]);  // It went on.

  const NodeModel* const before = host.model(pair.node(0));
  pair.open();
  EXPECT_NE(host.model(pair.node(0)), before);
  EXPECT_FALSE(host.holds(alone.node(0), alone.shard(0)));
  EXPECT_EQ(Served::TokenOf(pair.submit(prompt)), expected[0]);
}

TEST(NodeHost, WhatASessionIsOpenedWithStaysItsOwnWhereAnotherShardIsPreparedMeanwhile) {
  std::promise<void> running;
  std::promise<void> go_on;
  std::atomic<bool> hold{true};
  NodeHost host(HostOptions([&](LayerId, MatView<const float>) {
    if (!hold.exchange(false)) return;
    running.set_value();
    go_on.get_future().wait_for(kPatience);
  }));
  Served alone(host, "qwen3_moe", {"a"});
  Served pair(host, "qwen3_moe", {"a", "b"});
  Served three(host, "qwen3_moe", {"a", "b", "c"});
  alone.open();
  ASSERT_EQ(pair.prepare_node(0), absl::OkStatus());
  const auto step = alone.submit({1, 2});
  ASSERT_EQ(running.get_future().wait_for(kPatience), std::future_status::ready);
  // The session that is to end is in the middle of a layer.
  auto opening = std::async(std::launch::async, [&] { pair.open_loaded_node(0); });
  while (host.transport(alone.node(0)) != nullptr) std::this_thread::yield();
  EXPECT_EQ(three.prepare_node(0), absl::OkStatus());
  go_on.set_value();
  opening.get();
  EXPECT_TRUE(host.holds(pair.node(0), pair.shard(0)));
  EXPECT_NE(host.transport(pair.node(0)), nullptr);
}

TEST(NodeHost, ALoadDoesNotWaitForWhatIsPreparedBesideASession) {
  std::atomic<bool> hold{true};
  std::atomic<bool> preparing{false};
  const auto before_load = [&](const BackendLoad& load) -> absl::Status {
    if (load.beside_session) preparing = true;
    while (load.beside_session && hold) {
      if (load.cancelled()) return Cancelled("the load was ended");
      std::this_thread::yield();
    }
    return absl::OkStatus();
  };
  NodeHost host({.make_backend = [&](const HostedNode&) {
    return std::make_unique<FakeBackend>(FakeBackend::Options{.before_load = before_load});
  }});
  Served alone(host, "qwen3_moe", {"a"});
  Served pair(host, "qwen3_moe", {"a", "b"});
  Served three(host, "qwen3_moe", {"a", "b", "c"});
  alone.open();
  auto prepared = std::async(std::launch::async, [&] { return pair.prepare_node(0); });
  while (!preparing) std::this_thread::yield();
  auto opened = std::async(std::launch::async, [&] { three.open_node(0); });
  EXPECT_EQ(opened.wait_for(kPatience), std::future_status::ready);
  hold = false;
  EXPECT_EQ(prepared.get().code(), absl::StatusCode::kCancelled);
  opened.get();
  EXPECT_TRUE(host.holds(three.node(0), three.shard(0)));
  EXPECT_FALSE(host.holds(pair.node(0), pair.shard(0)));
}

// What comes next depends on all that the caches hold.
TEST(NodeHost, TheNextSessionGoesOnWithWhatTheLastOneCached) {
  NodeHost host(HostOptions());
  Served served(host, "qwen3_moe", {"a", "b"});
  EXPECT_EQ(served.open_again(1, 0), (std::vector<bool>{false, false}));
  const std::vector<int32_t> prompt = PromptOf(6, 60);
  const std::vector<int32_t> expected = FakeGreedy(served.spec(), prompt, 5);
  EXPECT_EQ(Served::TokenOf(served.submit(prompt)), expected[0]);
  EXPECT_EQ(served.open_again(2, 1), (std::vector<bool>{true, true}));
  EXPECT_EQ(Served::TokenOf(served.submit({expected[0]})), expected[1]);
  EXPECT_EQ(served.open_again(3, 2, 9), (std::vector<bool>{true, true}));  // With more blocks.
  EXPECT_EQ(Served::TokenOf(served.submit({expected[1]})), expected[2]);
  // A session that ran no step left what it found, whoever is asked for.
  EXPECT_EQ(served.open_again(4, 3), (std::vector<bool>{true, true}));
  EXPECT_EQ(served.open_again(5, 3), (std::vector<bool>{true, true}));
  EXPECT_EQ(served.open_again(6, 4), (std::vector<bool>{true, true}));
  EXPECT_EQ(Served::TokenOf(served.submit({expected[2]})), expected[3]);
  EXPECT_EQ(served.open_again(7, 3), (std::vector<bool>{false, false}));  // 6 has written since.
}

TEST(NodeHost, ACacheIsNotKeptWhereNobodyAsksForItOrItMayBeAnother) {
  NodeHost host(HostOptions());
  Served served(host, "qwen3_moe", {"a"});
  const std::vector<bool> kept = {true};
  const std::vector<bool> empty = {false};
  const auto run = [&served] { EXPECT_GE(Served::TokenOf(served.submit({1})), 0); };
  served.open_again(1, 0);
  run();
  EXPECT_EQ(served.open_again(2, 0), empty);
  run();
  EXPECT_EQ(served.open_again(3, 1), empty);  // 1 is long gone.
  run();
  // A number that comes again says nothing of what was in the cache, nor does what follows from it.
  EXPECT_EQ(served.open_again(3, 3), kept);
  run();
  EXPECT_EQ(served.open_again(4, 3), empty);
  run();
  EXPECT_EQ(served.open_again(5, 4), kept);
  // The weights go, and what was computed with them.
  served.close();
  host.drop(served.node(0));
  EXPECT_EQ(served.open_again(6, 5), empty);
}

TEST(NodeHost, ANodeKeepsItsLayersUnderAnotherPlanIfItHadThemAll) {
  NodeHost host(HostOptions());
  Served alone(host, "qwen3_moe", {"a"});
  Served pair(host, "qwen3_moe", {"a", "b"});
  alone.open_again(1, 0);
  EXPECT_GE(Served::TokenOf(alone.submit(PromptOf(7, 40))), 0);
  alone.close();
  EXPECT_EQ(pair.open_again(2, 1), (std::vector<bool>{true, false}));
  EXPECT_GE(Served::TokenOf(pair.submit(PromptOf(7, 40))), 0);
  pair.close();
  EXPECT_EQ(alone.open_again(3, 2), (std::vector<bool>{false}));
}

TEST(NodeHost, WhatIsKeptIsTrimmedToWhatTheNextSessionCanUse) {
  NodeHost host(HostOptions());
  Served served(host, "qwen3_moe", {"a"});
  served.open_again(1, 0);
  const std::vector<int32_t> prompt = PromptOf(8, 40);
  const std::vector<int32_t> expected = FakeGreedy(served.spec(), prompt, 2);
  EXPECT_EQ(Served::TokenOf(served.submit(prompt)), expected[0]);
  served.close();
  const Range layers{0, served.spec().layer_count()};
  host.trim_kept(served.node(0), layers, {.blocks = 4});
  EXPECT_EQ(served.open_again(2, 1), (std::vector<bool>{true}));
  EXPECT_EQ(Served::TokenOf(served.submit({expected[0]})), expected[1]);
  host.trim_kept(served.node(0), layers, {.blocks = 1});  // Not of a session that is open.
  served.close();
  host.trim_kept(served.node(0), {layers.end, layers.end + 1}, {.blocks = 4});
  EXPECT_EQ(served.open_again(3, 2), (std::vector<bool>{false}));
}

TEST(NodeHost, WhatWasPreparedIsGivenBackOnOrderAndWhereAnotherShardIsLoaded) {
  NodeHost host({.make_backend = [](const HostedNode&) { return std::make_unique<FakeBackend>(); }});
  Served alone(host, "qwen3_moe", {"a"});
  Served pair(host, "qwen3_moe", {"a", "b"});
  Served three(host, "qwen3_moe", {"a", "b", "c"});
  alone.open();
  ASSERT_EQ(pair.prepare_node(0), absl::OkStatus());
  host.drop_prepared(pair.node(0));
  EXPECT_FALSE(host.holds(pair.node(0), pair.shard(0)));
  ASSERT_EQ(pair.prepare_node(0), absl::OkStatus());
  ASSERT_EQ(three.prepare_node(0), absl::OkStatus());
  EXPECT_FALSE(host.holds(pair.node(0), pair.shard(0)));  // There is room for one.
  EXPECT_TRUE(host.holds(alone.node(0), alone.shard(0)));
  pair.open_node(0);
  EXPECT_FALSE(host.holds(three.node(0), three.shard(0)));
}

}  // namespace
}  // namespace shoal
