// Whole clusters on backends of a test's choice: what exec does, it does for any backend.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <map>
#include <string>

#include "base/check.h"
#include "base/status.h"
#include "cluster/local_cluster.h"
#include "cluster/worker_node.h"
#include "compute/testing/fake_backend.h"
#include "convert/testing/checkpoints.h"
#include "exec/pipeline_engine.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// Node 0 runs the first `cut` layers and node 1 the others, if there are any; they hold experts by turns.
Plan PlanOf(const ModelSpec& spec, int64_t cut) {
  Plan plan;
  plan.nodes = {{"first", ""}};
  plan.stages = {{NodeId{0}, {0, cut}}};
  if (cut < spec.layer_count()) {
    plan.nodes.push_back({"second", ""});
    plan.stages.push_back({NodeId{1}, {cut, spec.layer_count()}});
  }
  plan.experts.resize(spec.layers.size());
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const MoeSpec* moe = MoeOf(spec.layers[i]);
    for (size_t e = 0; moe != nullptr && e < moe->experts.size(); ++e) {
      plan.experts[i].push_back({NodeId{static_cast<int32_t>((i + e) % plan.nodes.size())}, {}});
    }
  }
  return plan;
}

/// A cluster of the tiny qwen3_moe, whose nodes have fakes of the classes given.
class FakeCluster {
 public:
  FakeCluster(int64_t cut, TransportKind transport, const std::map<std::string, std::string>& classes)
      : weights_(*ResolvedWeights::Open(TinyCheckpoint("qwen3_moe"))) {
    LocalCluster::Options options;
    options.weights = weights_;
    options.plan = PlanOf(spec(), cut);
    options.limits = {.context = 128, .vocabulary = spec().vocabulary, .blocks = 4, .rows_max = 64};
    options.transport = transport;
    options.make_backend = [classes](const HostedNode& node) {
      FakeBackend::Options fake;
      fake.numerics_class = classes.at(node.name);
      return std::make_unique<FakeBackend>(fake);
    };
    auto cluster = LocalCluster::Load(std::move(options));
    EXPECT_TRUE(cluster.ok()) << ToString(cluster.status());
    cluster_ = *std::move(cluster);
  }
  ~FakeCluster() { cluster_->close(engine_, Cancelled("test over")); }

  const ModelSpec& spec() const { return weights_->spec(); }
  absl::Status open() {
    Plan plan = cluster_->plan();
    plan.epoch = Epoch{1};
    return cluster_->open(plan, engine_);
  }

  /// `count` greedy tokens behind `prompt`, which goes in chunks of `chunk` rows.
  std::vector<int32_t> greedy(const std::vector<int32_t>& prompt, size_t chunk, int count) {
    std::vector<int32_t> tokens;
    for (size_t at = 0; at < prompt.size(); at += chunk) {
      const size_t end = std::min(at + chunk, prompt.size());
      tokens = run({prompt.begin() + static_cast<std::ptrdiff_t>(at),
                    prompt.begin() + static_cast<std::ptrdiff_t>(end)},
                   at == 0 ? prompt : std::vector<int32_t>(), end == prompt.size());
    }
    while (std::ssize(tokens) < count) tokens.push_back(run({tokens.back()}, {}, true).at(0));
    return tokens;
  }

 private:
  std::vector<int32_t> run(std::vector<int32_t> tokens, const std::vector<int32_t>& begin, bool sample) {
    Step step;
    step.id = StepId{++steps_};
    if (!begin.empty()) {
      step.begins.push_back({SeqId{1}, {.temperature = 0}, begin, static_cast<int32_t>(begin.size())});
    }
    SeqSlice slice;
    slice.id = SeqId{1};
    slice.position = position_;
    slice.blocks = {BlockId{3}, BlockId{1}, BlockId{0}, BlockId{2}};
    if (sample) slice.sample_from = static_cast<int32_t>(tokens.size()) - 1;
    position_ += static_cast<int32_t>(tokens.size());
    slice.tokens = std::move(tokens);
    step.slices.push_back(std::move(slice));
    std::promise<absl::StatusOr<StepResult>> promise;
    engine_.submit(engine_.state().generation, std::move(step),
                   [&](absl::StatusOr<StepResult> got) { promise.set_value(std::move(got)); });
    const absl::StatusOr<StepResult> result = promise.get_future().get();
    EXPECT_TRUE(result.ok()) << ToString(result.status());
    std::vector<int32_t> sampled;
    for (const SeqResult& sequence : result->sequences) {
      EXPECT_EQ(sequence.status, absl::OkStatus());
      for (const SampledToken& token : sequence.tokens) sampled.push_back(token.id);
    }
    return sampled;
  }

  std::shared_ptr<const ResolvedWeights> weights_;
  PipelineEngine engine_;
  std::unique_ptr<LocalCluster> cluster_;
  uint64_t steps_ = 0;
  int32_t position_ = 0;
};

TEST(BackendCluster, TwoNodesWithFakesGiveTheTokensOfTheFake) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 40; ++i) prompt.push_back(i * 7 % 50);
  for (const TransportKind transport : {TransportKind::kInproc, TransportKind::kGrpc}) {
    for (const int64_t cut : {int64_t{3}, int64_t{7}}) {
      FakeCluster cluster(cut, transport, {{"first", "shoal-fake/1"}, {"second", "shoal-fake/1"}});
      ASSERT_EQ(cluster.open(), absl::OkStatus());
      EXPECT_EQ(cluster.greedy(prompt, 16, 5), FakeGreedy(cluster.spec(), prompt, 5));
    }
  }
}

TEST(BackendCluster, NodesOfDifferentNumericsClassesOpenNoSession) {
  FakeCluster cluster(3, TransportKind::kGrpc, {{"first", "shoal-fake/1"}, {"second", "shoal-fake/2"}});
  const absl::Status opened = cluster.open();
  EXPECT_EQ(opened.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(opened), AllOf(HasSubstr("numerics class"), HasSubstr("'first'"), HasSubstr("'second'"),
                                     HasSubstr("'shoal-fake/1'"), HasSubstr("'shoal-fake/2'")));
}

/// A worker whose models lie beside `folder`.
std::unique_ptr<WorkerNode> WorkerBeside(const std::string& folder) {
  WorkerNode::Options options;
  options.name = "second";
  options.listen = "127.0.0.1:0";
  options.model_roots = {std::filesystem::path(folder).parent_path().string()};
  options.make_backend = [] { return std::make_unique<FakeBackend>(FakeBackend::Options{}); };
  auto worker = WorkerNode::Start(std::move(options));
  SHOAL_CHECK(worker.ok());
  return *std::move(worker);
}

/// To hold its shard of the model in `folder`.
PrepareOrder OrderFor(const std::string& folder) {
  const auto weights = *ResolvedWeights::Open(folder);
  return {.plan = PlanOf(weights->spec(), 3),
          .node = NodeId{1},
          .model_names = {folder},
          .model_hash = weights->checkpoint().hash(),
          .limits = {.context = 128, .vocabulary = weights->spec().vocabulary, .blocks = 4, .rows_max = 64}};
}

// Two models of one coordinator, say, of which one loads while the other's session is rebuilt.
TEST(WorkerNode, ACallWaitsForAnotherForAWhileAndIsThenToldToTryAgain) {
  const std::string& folder = TinyCheckpoint("qwen3_moe");
  const std::unique_ptr<WorkerNode> worker = WorkerBeside(folder);
  const PrepareOrder order = OrderFor(folder);
  std::promise<void> begun, go_on;
  std::once_flag once;
  auto loads = std::async(std::launch::async, [&] {
    return worker->prepare(order, [&](int64_t, int64_t) {
      std::call_once(once, [&] {
        begun.set_value();
        go_on.get_future().wait();
      });
    });
  });
  begun.get_future().wait();
  const absl::Status busy =
      worker->open({.session = 1, .plan = order.plan, .node = NodeId{1}, .limits = order.limits}).status();
  EXPECT_EQ(busy.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(busy), HasSubstr("'second' is busy"));
  std::promise<void> asked;
  auto waits = std::async(std::launch::async, [&] {
    asked.set_value();
    return worker->prepare(order, {});
  });
  asked.get_future().wait();
  go_on.set_value();
  const auto loaded = loads.get();
  ASSERT_TRUE(loaded.ok()) << ToString(loaded.status());
  const auto waited = waits.get();
  ASSERT_TRUE(waited.ok()) << ToString(waited.status());
  EXPECT_EQ(*waited, *loaded);
}

// The second may have loaded another fine-tune, whose shard looks the same.
TEST(WorkerNode, ACoordinatorOpensOnlyWhatItWasItselfThatPreparedLast) {
  const std::string& folder = TinyCheckpoint("qwen3_moe");
  const std::unique_ptr<WorkerNode> worker = WorkerBeside(folder);
  PrepareOrder order = OrderFor(folder);
  for (const uint64_t coordinator : {1, 2}) {
    order.giver.id = coordinator;
    const auto prepared = worker->prepare(order, {});
    ASSERT_TRUE(prepared.ok()) << ToString(prepared.status());
  }
  const absl::Status refused = worker
                                   ->open({.session = 1,
                                           .plan = order.plan,
                                           .node = NodeId{1},
                                           .limits = order.limits,
                                           .giver = {.id = 1}})
                                   .status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(refused), HasSubstr("prepared for another coordinator"));
}

}  // namespace
}  // namespace shoal
