// Workers without model files: they get their tensors from the coordinator over real sockets, and the cluster computes
// the bits of one node, whatever the coordinator's model is stored as.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <filesystem>
#include <future>
#include <thread>

#include "base/status.h"
#include "cluster/local_cluster.h"
#include "cluster/model_locator.h"
#include "cluster/remote_cluster.h"
#include "cluster/worker_node.h"
#include "compute/testing/fake_backend.h"
#include "convert/convert.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "measure/logits_probe.h"
#include "plan/planner.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const ProbeRequest kRequest{.ids = {1, 2, 3, 4, 5, 6, 7}, .greedy = 3};

class WeightsTest : public testing::Test {
 protected:
  /// The coordinator has the model in `path`.
  void use(const std::string& path) {
    auto model = OpenModel(path);
    SHOAL_CHECK(model.ok());
    model_ = *std::move(model);
    path_ = path;
  }

  WorkerNode::Options worker_options(const std::string& name) const {
    WorkerNode::Options options;
    options.name = name;
    options.listen = "127.0.0.1:0";
    options.isa = SupportedIsas().back();
    auto store = FetchedModels::Open({.folder = folder_.path() + "/" + name});
    SHOAL_CHECK(store.ok());
    options.fetched = *std::move(store);
    return options;
  }
  static std::unique_ptr<WorkerNode> StartWorker(WorkerNode::Options options) {
    auto worker = WorkerNode::Start(std::move(options));
    SHOAL_CHECK(worker.ok());
    return *std::move(worker);
  }
  StepLimits limits() const { return {model_.spec.max_positions, model_.spec.vocabulary, 16, 256}; }

  RemoteCluster::Options cluster_options(const std::vector<const WorkerNode*>& workers) const {
    RemoteCluster::Options options;
    options.weights = model_.weights;
    options.members = {{"coordinator", ""}};
    for (const WorkerNode* worker : workers) {
      options.members.push_back(
          {fmt::format("worker-{}", options.members.size()), fmt::format("127.0.0.1:{}", worker->port())});
    }
    options.limits = [this](const Plan&) { return limits(); };
    options.model_names = ModelNames(path_, "");
    options.isa = SupportedIsas().back();
    options.expert_timeout = kLocalTimeout;
    return options;
  }
  /// Layers and experts over all members.
  Plan plan_for(const RemoteCluster::Options& options) const {
    std::vector<NodeFacts> nodes;
    for (const MemberAddress& member : options.members)
      nodes.push_back({.name = member.name, .address = member.address});
    PlanRequest request;
    request.strategy = LayerStrategy::kUniform;
    request.experts.strategy = ExpertStrategy::kRoundRobin;
    auto plan = MakePlan(model_.facts, nodes, request);
    SHOAL_CHECK(plan.ok());
    return *plan;
  }

  struct Result {
    absl::Status status;
    std::vector<float> logits;
    int64_t sent_bytes = 0;
  };
  /// Logits of a session, and what the coordinator sent of its weights.
  Result run(RemoteCluster::Options options) const {
    const Plan plan = plan_for(options);
    auto cluster = RemoteCluster::Start(std::move(options));
    if (!cluster.ok()) return {.status = cluster.status(), .logits = {}};
    PipelineEngine engine(kLocalLiveness);
    Result result{.status = (*cluster)->open(plan, engine), .logits = {}};
    if (result.status.ok()) {
      auto probed = ProbeLogits(engine, kRequest);
      result.status = probed.status();
      if (probed.ok()) result.logits = std::move(probed->logits);
    }
    result.sent_bytes = (*cluster)->weights_sent_bytes();
    (*cluster)->close(engine, Cancelled("done"));
    return result;
  }
  std::vector<float> one_node_logits() const {
    LocalCluster::Options options;
    options.weights = model_.weights;
    auto plan = MakePlan(model_.facts, {{.name = "alone"}}, {});
    SHOAL_CHECK(plan.ok());
    options.plan = *plan;
    options.limits = limits();
    options.isa = SupportedIsas().back();
    auto cluster = LocalCluster::Load(std::move(options));
    SHOAL_CHECK(cluster.ok());
    PipelineEngine engine(kLocalLiveness);
    SHOAL_CHECK((*cluster)->open((*cluster)->plan(), engine).ok());
    const auto result = ProbeLogits(engine, kRequest);
    (*cluster)->close(engine, Cancelled("done"));
    SHOAL_CHECK(result.ok());
    return result->logits;
  }

  const TempFolder folder_;
  std::string path_;
  OpenedModel model_;
};

class WeightsOfAnyForm : public WeightsTest, public testing::WithParamInterface<std::string> {};

TEST_P(WeightsOfAnyForm, WorkersWithoutFilesGiveTheBitsOfOneNodeAndFetchOnce) {
  const std::string& form = GetParam();
  use(form == "mlx"     ? TinyCheckpoint("qwen3_moe", AffineFormat{4, 64})
      : form == "plain" ? TinyCheckpoint("qwen3_moe")
                        : std::string(SHOAL_SOURCE_DIR) + "/tests/goldens/models/" + form);
  int64_t sent = 0;
  {
    const auto first = StartWorker(worker_options("first"));
    const auto second = StartWorker(worker_options("second"));
    const Result fresh = run(cluster_options({first.get(), second.get()}));
    ASSERT_TRUE(fresh.status.ok()) << ToString(fresh.status);
    EXPECT_EQ(fresh.logits, one_node_logits());
    sent = fresh.sent_bytes;
    EXPECT_GT(sent, model_.checkpoint->total_bytes() / 4);
    EXPECT_EQ(first->describe().fetch_total_bytes, 0) << "it is over";
  }
  const auto first = StartWorker(worker_options("first"));
  const auto second = StartWorker(worker_options("second"));
  const Result again = run(cluster_options({first.get(), second.get()}));
  ASSERT_TRUE(again.status.ok()) << ToString(again.status);
  EXPECT_EQ(again.logits, one_node_logits());
  EXPECT_EQ(again.sent_bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Forms, WeightsOfAnyForm,
                         testing::Values("mlx", "plain", "qwen3_moe/plain-gguf-q4_0",
                                         "llama/plain-gguf-q8_0"),
                         [](const auto& form) {
                           std::string name = form.param;
                           std::ranges::replace_if(
                               name, [](char c) { return std::isalnum(c) == 0; }, '_');
                           return name;
                         });

TEST_F(WeightsTest, AShardFolderGivesWhatItHas) {
  const std::string& whole = TinyCheckpoint("qwen3_moe", AffineFormat{4, 64});
  use(whole);
  // The second worker has files; the coordinator's shard has all but the second worker's part.
  WorkerNode::Options with_files = worker_options("second");
  with_files.model_roots = {std::filesystem::path(whole).parent_path().string()};
  with_files.fetched = nullptr;
  const auto first = StartWorker(worker_options("first"));
  const auto second = StartWorker(std::move(with_files));
  const std::vector<float> expected = one_node_logits();
  const Plan plan = plan_for(cluster_options({first.get(), second.get()}));
  const NodeShard own = ShardOf(plan, NodeId{0});
  const NodeShard other = ShardOf(plan, NodeId{1});
  const std::string out = folder_.path() + "/shards/" + std::filesystem::path(whole).filename().string();
  ConvertOptions convert;
  convert.format.kind = ConvertFormat::Kind::kKeep;
  convert.shards.push_back({.out = out,
                            .node = "coordinator",
                            .holds = "its layers, and the first worker's",
                            .has = [&](const WeightUse& use) { return own.holds(use) || other.holds(use); }});
  const auto report = ConvertModel(*model_.weights, convert);
  ASSERT_TRUE(report.ok()) << ToString(report.status());
  use(out);
  RemoteCluster::Options cluster = cluster_options({first.get(), second.get()});
  cluster.model_names = {
      std::filesystem::path(whole).filename().string()};  // The shard lies below the root, too.
  const Result result = run(cluster);
  ASSERT_TRUE(result.status.ok()) << ToString(result.status);
  EXPECT_EQ(result.logits, expected);
  EXPECT_GT(result.sent_bytes, 0);

  // Without its files the second worker finds nobody who has its part.
  const auto lost = StartWorker(worker_options("third"));
  const Result lacking = run(cluster_options({first.get(), lost.get()}));
  EXPECT_EQ(lacking.status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ToString(lacking.status),
              AllOf(HasSubstr("worker 'third'"), HasSubstr("is a shard without it")));
}

TEST_F(WeightsTest, WithAKeyOnlyThoseWhoKnowItGetTensors) {
  use(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  const auto key = KeyAuth::from_key("a key of more than sixteen bytes");
  ASSERT_TRUE(key.ok());
  WorkerNode::Options options = worker_options("first");
  options.key = *key;
  const auto worker = StartWorker(std::move(options));
  RemoteCluster::Options cluster = cluster_options({worker.get()});
  cluster.key = *key;
  cluster.listen = "127.0.0.1:0";
  const Result result = run(cluster);
  ASSERT_TRUE(result.status.ok()) << ToString(result.status);
  EXPECT_GT(result.sent_bytes, 0);

  WeightShelf shelf;
  shelf.put(model_.checkpoint);
  WeightsService service(shelf, *key);
  GrpcOptions grpc;
  grpc.key = *key;
  grpc.services = {service.service()};
  auto endpoint = GrpcEndpoint::start(std::move(grpc));
  ASSERT_TRUE(endpoint.ok());
  RemoteShelf stranger(
      {"shelf", fmt::format("127.0.0.1:{}", (*endpoint)->port()), std::nullopt, model_.facts.hash});
  EXPECT_EQ(stranger.skeleton().status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(stranger.hashes(std::vector<TensorChunk>{{0, 0, 1}}).status().code(),
            absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(shelf.bytes_sent(), 0);
}

TEST_F(WeightsTest, WhoMayNotFetchSaysWhy) {
  use(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  const TempFolder empty;
  WorkerNode::Options options = worker_options("first");
  options.model_roots = {empty.path()};
  const auto worker = StartWorker(options);
  RemoteCluster::Options cluster = cluster_options({worker.get()});
  cluster.send_weights = false;
  EXPECT_THAT(ToString(run(cluster).status), AllOf(HasSubstr(empty.path()), HasSubstr("--no-send-weights")));
  options.fetched = nullptr;
  options.name = "second";
  const auto other = StartWorker(options);
  EXPECT_THAT(ToString(run(cluster_options({other.get()})).status), HasSubstr("--weights-cache is off"));
}

TEST_F(WeightsTest, WhatANewPlanAddsIsFetchedWhileTheSessionServes) {
  use(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  const auto worker = StartWorker(worker_options("first"));
  RemoteCluster::Options options = cluster_options({worker.get()});
  std::vector<Epoch> opened;
  options.opens = [&](const Plan& now) { opened.push_back(now.epoch); };
  Plan plan = plan_for(options);
  ASSERT_GT(plan.stages[1].layers.begin, 1);
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  const auto before = ProbeLogits(engine, kRequest);
  ASSERT_TRUE(before.ok());
  const int64_t sent = (*cluster)->weights_sent_bytes();

  plan.epoch = Epoch{2};
  plan.stages[0].layers.end = 1;
  plan.stages[1].layers.begin = 1;
  ASSERT_EQ((*cluster)->prepare(plan), absl::OkStatus());
  const int64_t fetched = (*cluster)->weights_sent_bytes();
  EXPECT_GT(fetched, sent);
  EXPECT_EQ(worker->describe().state, WorkerState::kServing);
  EXPECT_EQ(opened.size(), 1u);  // What the next one takes counts when it comes.
  ProbeRequest more = kRequest;
  more.first_step = before->next_step;
  more.sequence = SeqId{2};
  const auto during = ProbeLogits(engine, more);
  ASSERT_TRUE(during.ok()) << ToString(during.status());
  EXPECT_EQ(during->logits, before->logits);

  (*cluster)->close(engine, Cancelled("a new plan"));
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  EXPECT_EQ(opened.size(), 2u);
  EXPECT_EQ((*cluster)->weights_sent_bytes(), fetched);
  const auto after = ProbeLogits(engine, kRequest);
  (*cluster)->close(engine, Cancelled("done"));
  ASSERT_TRUE(after.ok()) << ToString(after.status());
  EXPECT_EQ(after->logits, before->logits);
}

TEST_F(WeightsTest, AfterALossNobodyWaitsForWhatIsFetchedBesideTheSession) {
  use(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  const auto worker = StartWorker(worker_options("first"));
  RemoteCluster::Options options = cluster_options({worker.get()});
  // An expert comes soon, the rest would take a long while.
  options.weights_rate = std::make_shared<ByteRate>(40'000);
  Plan plan = plan_for(options);
  const Plan larger = plan;
  plan.stages = {{NodeId{0}, {0, model_.spec.layer_count()}}};
  for (size_t layer = 0; layer < plan.experts.size(); ++layer) {
    for (size_t e = 0; e < plan.experts[layer].size(); ++e)
      plan.experts[layer][e] = {NodeId{layer == 0 && e == 0 ? 1 : 0}, {}};
  }
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  auto beside = std::async(std::launch::async, [&] { return (*cluster)->prepare(larger); });
  while (worker->describe().fetch_total_bytes == 0 &&
         beside.wait_for(Duration::zero()) != std::future_status::ready)
    std::this_thread::yield();

  // The session is lost, and the plan to come is another one.
  PrepareOrder order{.plan = larger, .node = NodeId{1}, .model_names = ModelNames(path_, "")};
  order.plan.stages[0].layers.end = order.plan.stages[1].layers.begin = 1;
  order.plan.nodes[0].address = "127.0.0.1:1";  // Where nobody is: the order itself is of no interest.
  order.model_hash = model_.facts.hash;
  order.limits = limits();
  order.giver = {.id = 1, .take_over = true};
  order.weights_content = model_.checkpoint->content_identity();
  EXPECT_FALSE(worker->prepare(order, {}).ok());
  EXPECT_EQ(beside.get().code(), absl::StatusCode::kCancelled);
  (*cluster)->close(engine, Cancelled("done"));
}

TEST_F(WeightsTest, WhatAWorkerFailsToLoadItGivesToNobody) {
  use(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  std::atomic<bool> fails{false};
  WorkerNode::Options options = worker_options("first");
  options.model_roots = {std::filesystem::path(path_).parent_path().string()};
  options.make_backend = [&] {
    return std::make_unique<FakeBackend>(FakeBackend::Options{.before_load = [&](const BackendLoad&) {
      return fails ? ResourceExhausted("no memory") : absl::OkStatus();
    }});
  };
  const auto worker = StartWorker(std::move(options));
  PrepareOrder order{.plan = plan_for(cluster_options({worker.get()})), .node = NodeId{1}};
  order.model_names = ModelNames(path_, "");
  order.model_hash = model_.facts.hash;
  order.limits = limits();
  order.giver = {.id = 1};
  ASSERT_TRUE(worker->prepare(order, {}).ok());
  RemoteShelf shelf({"first", fmt::format("127.0.0.1:{}", worker->port()), std::nullopt, model_.facts.hash});
  EXPECT_TRUE(shelf.skeleton().ok());
  fails = true;
  order.plan.stages[0].layers.end = order.plan.stages[1].layers.begin = 1;
  EXPECT_FALSE(worker->prepare(order, {}).ok());
  EXPECT_EQ(shelf.skeleton().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(WeightsTest, APartThatDoesNotFitIsRefusedBeforeItIsFetched) {
  use(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}));
  WorkerNode::Options options = worker_options("first");
  options.memory_bytes = 4096;
  const auto small = StartWorker(std::move(options));
  const Result memory = run(cluster_options({small.get()}));
  EXPECT_THAT(ToString(memory.status), HasSubstr("it may use 4.0 KiB"));
  EXPECT_LT(memory.sent_bytes, model_.checkpoint->total_bytes() / 4);

  options = worker_options("second");
  options.fetched = nullptr;
  auto store = FetchedModels::Open({.folder = folder_.path() + "/small", .limit_bytes = 50'000});
  ASSERT_TRUE(store.ok());
  options.fetched = *std::move(store);
  const auto full = StartWorker(std::move(options));
  const Result disk = run(cluster_options({full.get()}));
  EXPECT_EQ(disk.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(ToString(disk.status), AllOf(HasSubstr("worker 'second'"), HasSubstr("more are needed")));
}

}  // namespace
}  // namespace shoal
