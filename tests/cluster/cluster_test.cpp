// Workers and a coordinator over real sockets on loopback: sessions, refusals, loss and return.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "base/status.h"
#include "cluster/addresses.h"
#include "cluster/local_cluster.h"
#include "cluster/model_locator.h"
#include "cluster/remote_cluster.h"
#include "cluster/worker_node.h"
#include "compute/cpu_backend.h"
#include "compute/testing/fake_backend.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "measure/logits_probe.h"
#include "plan/planner.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ClusterTest : public testing::Test {
 protected:
  ClusterTest() {
    folder_ = TinyCheckpoint("qwen3_moe", AffineFormat{4, 64});
    root_ = std::filesystem::path(folder_).parent_path().string();
    auto model = OpenModel(folder_);
    SHOAL_CHECK(model.ok());
    model_ = std::move(*model);
  }

  WorkerNode::Options worker_options(const std::string& name) const {
    WorkerNode::Options options;
    options.name = name;
    options.listen = "127.0.0.1:0";
    options.model_roots = {root_};
    options.isa = SupportedIsas().back();
    return options;
  }
  static std::unique_ptr<WorkerNode> StartWorker(WorkerNode::Options options) {
    auto worker = WorkerNode::Start(std::move(options));
    SHOAL_CHECK(worker.ok());
    return std::move(*worker);
  }

  /// A plan over the coordinator and so many workers, with layers and experts on each.
  Plan plan_over(size_t workers) const {
    std::vector<NodeFacts> nodes = {{.name = "coordinator"}};
    while (nodes.size() <= workers) {
      nodes.push_back({.name = fmt::format("worker-{}", nodes.size()), .address = "127.0.0.1:1"});
    }
    for (size_t i = 1; i < nodes.size(); ++i) nodes[i].address = fmt::format("127.0.0.1:{}", i);
    PlanRequest request;
    request.strategy = LayerStrategy::kUniform;
    request.experts.strategy = ExpertStrategy::kRoundRobin;
    auto plan = MakePlan(model_.facts, nodes, request);
    SHOAL_CHECK(plan.ok());
    return *plan;
  }

  RemoteCluster::Options cluster_options(const std::vector<int>& ports) const {
    RemoteCluster::Options options;
    options.weights = model_.weights;
    options.members = {{"coordinator", ""}};
    for (const int port : ports) {
      options.members.push_back(
          {fmt::format("worker-{}", options.members.size()), fmt::format("127.0.0.1:{}", port)});
    }
    options.limits = [this](const Plan&) { return limits(); };
    options.model_names = ModelNames(folder_, "");
    options.isa = SupportedIsas().back();
    options.expert_timeout = kLocalTimeout;
    return options;
  }
  StepLimits limits() const { return {model_.spec.max_positions, model_.spec.vocabulary, 16, 256}; }

  /// The plan of plan_over() with the addresses of the members.
  Plan plan_for(const RemoteCluster::Options& options) const {
    Plan plan = plan_over(options.members.size() - 1);
    for (size_t i = 1; i < plan.nodes.size(); ++i) plan.nodes[i].address = options.members[i].address;
    return plan;
  }

  /// The error of the first session.
  absl::Status open_once(RemoteCluster::Options options) {
    const Plan plan = plan_for(options);
    auto cluster = RemoteCluster::Start(std::move(options));
    if (!cluster.ok()) return cluster.status();
    PipelineEngine engine(kLocalLiveness);
    const absl::Status opened = (*cluster)->open(plan, engine);
    (*cluster)->close(engine, Cancelled("done"));
    return opened;
  }

  std::vector<float> one_node_logits(const ProbeRequest& request) {
    LocalCluster::Options options;
    options.weights = model_.weights;
    auto plan = MakePlan(model_.facts, {{.name = "alone"}}, {});
    SHOAL_CHECK(plan.ok());
    options.plan = *plan;
    options.limits = {model_.spec.max_positions, model_.spec.vocabulary, 16, 256};
    options.isa = SupportedIsas().back();
    auto cluster = LocalCluster::Load(std::move(options));
    SHOAL_CHECK(cluster.ok());
    PipelineEngine engine(kLocalLiveness);
    SHOAL_CHECK((*cluster)->open((*cluster)->plan(), engine).ok());
    const auto result = ProbeLogits(engine, request);
    (*cluster)->close(engine, Cancelled("done"));
    SHOAL_CHECK(result.ok());
    return result->logits;
  }

  std::string folder_;
  std::string root_;
  OpenedModel model_;
};

TEST_F(ClusterTest, TwoWorkersAndTheCoordinatorGiveTheBitsOfOneNode) {
  const auto first = StartWorker(worker_options("first"));
  const auto second = StartWorker(worker_options("second"));
  const RemoteCluster::Options options = cluster_options({first->port(), second->port()});
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok()) << ToString(cluster.status());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(plan_for(options), engine), absl::OkStatus());
  const ProbeRequest request{.ids = {1, 2, 3, 4, 5, 6, 7, 8, 9}, .greedy = 3};
  const auto got = ProbeLogits(engine, request);
  const std::vector<MemberStatus> status = (*cluster)->status(Deadline::after_ms(5000));
  (*cluster)->close(engine, Cancelled("done"));
  ASSERT_TRUE(got.ok()) << ToString(got.status());
  EXPECT_EQ(got->logits, one_node_logits(request));
  ASSERT_EQ(status.size(), 3u);
  for (const MemberStatus& node : status) EXPECT_EQ(node.state, MemberState::kUp) << node.error;
  EXPECT_GT(status[1].facts->expert_calls, 0u);
}

TEST_F(ClusterTest, UnderANewPlanEveryNodeLoadsItsNewSlice) {
  const auto worker = StartWorker(worker_options("first"));
  const RemoteCluster::Options options = cluster_options({worker->port()});
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  Plan plan = plan_for(options);
  const Plan old_plan = plan;
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  const ProbeRequest request{.ids = {1, 2, 3, 4, 5, 6, 7}, .greedy = 2};
  const auto before = ProbeLogits(engine, request);
  (*cluster)->close(engine, Cancelled("a new plan"));

  plan.epoch = Epoch{2};
  ASSERT_EQ(plan.stages.size(), 2u);
  plan.stages[0].layers.end = 1;
  plan.stages[1].layers.begin = 1;
  for (auto& layer : plan.experts) {
    for (ExpertHolders& holders : layer) holders.owner = NodeId{1 - holders.owner.value};
  }
  ASSERT_NE(ShardOf(plan, NodeId{0}), ShardOf(old_plan, NodeId{0}));
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  EXPECT_EQ((*cluster)->host().model((*cluster)->own_node())->shard(), ShardOf(plan, NodeId{0}));
  const auto after = ProbeLogits(engine, request);
  (*cluster)->close(engine, Cancelled("done"));
  ASSERT_TRUE(before.ok() && after.ok()) << ToString(after.status());
  EXPECT_EQ(after->logits, before->logits);
}

TEST_F(ClusterTest, NodesLoadForANewPlanWhileTheSessionServes) {
  const auto worker = StartWorker(worker_options("first"));
  const RemoteCluster::Options options = cluster_options({worker->port()});
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  Plan plan = plan_for(options);
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  const ProbeRequest request{.ids = {1, 2, 3, 4, 5, 6, 7}, .greedy = 2};
  const auto before = ProbeLogits(engine, request);
  ASSERT_TRUE(before.ok());
  const int64_t held = worker->describe().weight_bytes;

  plan.epoch = Epoch{2};
  plan.stages[0].layers.end = 1;
  plan.stages[1].layers.begin = 1;
  ASSERT_EQ((*cluster)->prepare(plan), absl::OkStatus());
  EXPECT_EQ(worker->describe().state, WorkerState::kServing);
  EXPECT_EQ(worker->describe().weight_bytes, held);  // Of the session.
  ProbeRequest more = request;
  more.first_step = before->next_step;
  more.sequence = SeqId{2};
  const auto during = ProbeLogits(engine, more);
  ASSERT_TRUE(during.ok()) << ToString(during.status());
  EXPECT_EQ(during->logits, before->logits);

  (*cluster)->close(engine, Cancelled("a new plan"));
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  EXPECT_GT(worker->describe().weight_bytes, held);
  const auto after = ProbeLogits(engine, request);
  (*cluster)->close(engine, Cancelled("done"));
  ASSERT_TRUE(after.ok()) << ToString(after.status());
  EXPECT_EQ(after->logits, before->logits);
}

TEST_F(ClusterTest, WhatDoesNotFitBesideASessionIsRefusedAndTheSessionServesOn) {
  // Either half of the experts fits alone.
  const auto with_others_experts = [](Plan plan) {
    for (auto& layer : plan.experts) {
      for (ExpertHolders& holders : layer) holders.owner = NodeId{1 - holders.owner.value};
    }
    return plan;
  };
  auto worker_with = worker_options("tight");
  for (const Plan& plan : {plan_over(1), with_others_experts(plan_over(1))}) {
    const NodeShard shard = ShardOf(plan, NodeId{1});
    const int64_t bytes = ShardBytes(model_.spec, model_.footprint, shard) +
                          CacheBytes(model_.facts, shard, plan.kv_dtype, limits());
    worker_with.memory_bytes = std::max(worker_with.memory_bytes, bytes);
  }
  const auto worker = StartWorker(worker_with);
  const RemoteCluster::Options options = cluster_options({worker->port()});
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  Plan plan = plan_for(options);
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  plan = with_others_experts(plan);
  const absl::Status refused = (*cluster)->prepare(plan);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused), AllOf(HasSubstr("'tight'"), HasSubstr("do not fit")));
  EXPECT_TRUE(ProbeLogits(engine, {.ids = {1, 2, 3}, .greedy = 2}).ok());
  (*cluster)->close(engine, Cancelled("a new plan"));
  plan.epoch = Epoch{2};
  EXPECT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  (*cluster)->close(engine, Cancelled("done"));
}

TEST_F(ClusterTest, AWorkerThatIsGoneIsNamedAndItsReturnIsEnough) {
  auto worker = StartWorker(worker_options("first"));
  const int port = worker->port();
  const RemoteCluster::Options options = cluster_options({port});
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  Supervisor supervisor(**cluster, engine, [&] { return plan_for(options); },
                        {std::chrono::milliseconds(50), std::chrono::milliseconds(200)});
  supervisor.start();
  const auto wait_for = [&](bool up) {
    const Deadline deadline = Deadline::after_ms(20000);
    while (engine.state().status.ok() != up && !deadline.expired()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return engine.state().status;
  };
  ASSERT_EQ(wait_for(true), absl::OkStatus());
  const ProbeRequest request{.ids = {5, 6, 7}, .greedy = 2};
  const auto before = ProbeLogits(engine, request);
  ASSERT_TRUE(before.ok());

  worker.reset();
  const absl::Status lost = wait_for(false);
  EXPECT_THAT(Message(lost), HasSubstr("worker-1"));
  EXPECT_EQ((*cluster)->status(Deadline::after_ms(1000))[1].state, MemberState::kLost);
  EXPECT_FALSE(ProbeLogits(engine, request).ok());

  auto again = worker_options("first");
  again.listen = fmt::format("127.0.0.1:{}", port);
  worker = StartWorker(again);
  ASSERT_EQ(wait_for(true), absl::OkStatus());
  const auto after = ProbeLogits(engine, request);
  ASSERT_TRUE(after.ok()) << ToString(after.status());
  EXPECT_EQ(after->logits, before->logits);
  EXPECT_EQ(engine.state().generation, 2u);
  supervisor.stop();
}

TEST_F(ClusterTest, AnotherModelUnderTheSameNameIsRefusedWithBothHashes) {
  const TempFolder root;
  const std::string copy = root.path() + "/" + std::filesystem::path(folder_).filename().string();
  std::filesystem::copy(folder_, copy, std::filesystem::copy_options::recursive);
  std::ifstream in(copy + "/config.json");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  text.insert(text.find('{') + 1, "\"note\": \"another one\",");
  std::ofstream(copy + "/config.json") << text;
  auto options = worker_options("first");
  options.model_roots = {root.path()};
  const auto worker = StartWorker(options);
  const absl::Status status = open_once(cluster_options({worker->port()}));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("is another model than the coordinator's"));
  EXPECT_THAT(Message(status), HasSubstr(model_.facts.hash));
}

TEST_F(ClusterTest, AWorkerOfAnotherNumericsClassIsRefusedBeforeItLoads) {
  WorkerNode::Options options = worker_options("other");
  options.make_backend = [] { return std::make_unique<FakeBackend>(); };
  options.numerics_class = FakeBackend().numerics_class();
  const auto worker = StartWorker(std::move(options));
  const absl::Status opened = open_once(cluster_options({worker->port()}));
  EXPECT_EQ(opened.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(opened), AllOf(HasSubstr("'worker-1'"), HasSubstr("'coordinator'"),
                                     HasSubstr("'shoal-fake/1'"), HasSubstr("'" + CpuNumericsClass() + "'")));
  EXPECT_EQ(worker->describe().weight_bytes, 0);
  EXPECT_EQ(worker->describe().numerics_class, "shoal-fake/1");
}

TEST_F(ClusterTest, AModelOutsideTheRootsIsNotFound) {
  const TempFolder empty;
  auto options = worker_options("first");
  options.model_roots = {empty.path()};
  const auto worker = StartWorker(options);
  const absl::Status status = open_once(cluster_options({worker->port()}));
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr(empty.path()));
}

TEST_F(ClusterTest, AShareThatDoesNotFitTheWorkersMemoryIsRefusedWithTheNumbers) {
  auto options = worker_options("small");
  options.memory_bytes = 4096;
  const auto worker = StartWorker(options);
  const absl::Status status = open_once(cluster_options({worker->port()}));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("it may use 4.0 KiB"));
}

TEST_F(ClusterTest, APlanForMoreExpertsThanTheModelHasIsRefusedByTheWorker) {
  const auto worker = StartWorker(worker_options("first"));
  const RemoteCluster::Options options = cluster_options({worker->port()});
  const Plan plan = plan_for(options);
  PrepareOrder prepare{plan, NodeId{1}, options.model_names, model_.facts.hash, {}, limits()};
  OpenOrder open{1, plan, NodeId{1}, limits(), options.expert_timeout};
  const auto nobody_listens = [](int64_t, int64_t) {};
  ASSERT_TRUE(worker->prepare(prepare, nobody_listens).ok());
  // The worker's own shard stays as it was: another node holds what does not exist.
  open.plan.experts.back().push_back({NodeId{0}, {}});
  EXPECT_THAT(ToString(worker->open(open).status()),
              AllOf(HasSubstr("worker 'first'"), HasSubstr("has owners for")));
  const auto other = StartWorker(worker_options("other"));
  prepare.plan = open.plan;
  EXPECT_THAT(ToString(other->prepare(prepare, nobody_listens).status()), HasSubstr("has owners for"));
}

TEST_F(ClusterTest, ACacheThatDoesNotFitBesideTheWeightsIsRefusedBeforeAnythingIsLoaded) {
  const Plan plan = plan_over(1);
  const int64_t weights = ShardBytes(model_.spec, model_.footprint, ShardOf(plan, NodeId{1}));
  const int64_t cache = CacheBytes(model_.facts, ShardOf(plan, NodeId{1}), plan.kv_dtype, limits());
  ASSERT_GT(cache, 0);
  auto options = worker_options("tight");
  options.memory_bytes = weights + cache - 1;
  const auto tight = StartWorker(options);
  const PrepareOrder order{plan, NodeId{1}, ModelNames(folder_, ""), model_.facts.hash, {}, limits()};
  const auto nobody_listens = [](int64_t, int64_t) {};
  const absl::Status refused = tight->prepare(order, nobody_listens).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused), HasSubstr("512 KV positions"));
  EXPECT_EQ(tight->describe().weight_bytes, 0);

  options.memory_bytes = weights + cache;
  const auto wide = StartWorker(options);
  EXPECT_TRUE(wide->prepare(order, nobody_listens).ok());
}

TEST_F(ClusterTest, AnAbsurdOrderIsRefusedAndTheRunningSessionGoesOn) {
  const auto worker = StartWorker(worker_options("first"));
  const RemoteCluster::Options options = cluster_options({worker->port()});
  const Plan plan = plan_for(options);
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(plan, engine), absl::OkStatus());
  const uint64_t session = worker->describe().session;

  // It was prepared for whoever gives the orders, and holds what they are about.
  const PrepareOrder prepared{plan, NodeId{1}, ModelNames(folder_, ""), model_.facts.hash,
                              {},   limits(),  {.take_over = true}};
  ASSERT_TRUE(worker->prepare(prepared, [](int64_t, int64_t) {}).ok());
  const auto refusal = [&](auto change) {
    OpenOrder order{session + 1, plan, NodeId{1}, limits(), options.expert_timeout, {.take_over = true}};
    order.plan.nodes[0].address = "127.0.0.1:1";
    change(order);
    return ToString(worker->open(order).status());
  };
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  EXPECT_THAT(refusal([](OpenOrder& order) { order.limits.state_slots = kMost; }),
              HasSubstr("2147483647 state slots, expected 0 to 0"));
  EXPECT_THAT(refusal([](OpenOrder& order) { order.limits.blocks = kMost; }), HasSubstr("KV blocks"));
  EXPECT_THAT(refusal([](OpenOrder& order) { order.limits.context = int64_t{1} << 40; }),
              HasSubstr("context 1099511627776"));
  EXPECT_THAT(refusal([](OpenOrder& order) { order.limits.rows_max = 1 << 20; }), HasSubstr("rows a step"));
  EXPECT_THAT(refusal([&](OpenOrder& order) { order.session = session; }),
              HasSubstr("was opened here before"));
  EXPECT_THAT(refusal([](OpenOrder& order) { order.node = NodeId{0}; }), HasSubstr("holds no shard"));
  EXPECT_THAT(refusal([](OpenOrder& order) { order.plan.nodes[0].address = ""; }), HasSubstr("HOST:PORT"));
  EXPECT_THAT(refusal([](OpenOrder& order) {
                order.plan.experts.back().push_back({NodeId{0}, {}});
              }),
              HasSubstr("has owners for"));
  EXPECT_THAT(refusal([](OpenOrder& order) { order.giver.take_over = false; }),
              HasSubstr("serves the coordinator 'coordinator' at 127.0.0.1"));

  EXPECT_EQ(worker->describe().session, session);
  EXPECT_TRUE(ProbeLogits(engine, {.ids = {1, 2, 3}, .greedy = 2}).ok());
  (*cluster)->close(engine, Cancelled("done"));
}

TEST_F(ClusterTest, NobodyWaitsForTheLinksOfAWorkersNextSession) {
  const auto worker = StartWorker(worker_options("first"));
  const RemoteCluster::Options options = cluster_options({worker->port()});
  const PrepareOrder prepared{plan_for(options),  NodeId{1}, ModelNames(folder_, ""),
                              model_.facts.hash,  {},        limits(),
                              {.take_over = true}};
  ASSERT_TRUE(worker->prepare(prepared, [](int64_t, int64_t) {}).ok());
  // Nobody is there: a link is tried for 1.5 s. Calls a fifth of a second off both ends of that are certainly within.
  constexpr Duration kOff = std::chrono::milliseconds(200);
  int within = 0;
  for (uint64_t session = 1; session < 10 && within == 0; ++session) {
    OpenOrder order{session, prepared.plan, NodeId{1}, limits(), options.expert_timeout, {.take_over = true}};
    order.plan.nodes[0].address = "127.0.0.1:1";
    std::atomic<bool> over = false;
    absl::Status dialled;
    Clock::time_point end;
    const Clock::time_point begin = Clock::now();
    std::thread dialling([&] {
      dialled = worker->dial(order);
      end = Clock::now();
      over = true;
    });
    std::vector<std::pair<Clock::time_point, Clock::time_point>> calls;
    while (!over) {
      const Clock::time_point called = Clock::now();
      worker->close(1000);
      calls.emplace_back(called, Clock::now());
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    dialling.join();
    EXPECT_EQ(dialled.code(), absl::StatusCode::kUnavailable) << ToString(dialled);
    within += static_cast<int>(std::ranges::count_if(
        calls, [&](const auto& call) { return call.first >= begin + kOff && call.second <= end - kOff; }));
  }
  EXPECT_GT(within, 0);
}

/// A coordinator of its own for another model, alone with one worker.
struct OtherCoordinator {
  OtherCoordinator(const std::string& folder, int port) {
    model = OpenModel(folder);
    SHOAL_CHECK(model.ok());
    RemoteCluster::Options options;
    options.weights = model->weights;
    options.members = {{"coordinator", ""}, {"worker-1", fmt::format("127.0.0.1:{}", port)}};
    options.limits = [this](const Plan&) {
      return StepLimits{model->spec.max_positions, model->spec.vocabulary, 16, 256};
    };
    options.model_names = ModelNames(folder, "");
    options.isa = SupportedIsas().back();
    options.expert_timeout = kLocalTimeout;
    auto started = RemoteCluster::Start(std::move(options));
    SHOAL_CHECK(started.ok());
    cluster = std::move(*started);
    PlanRequest request;
    request.strategy = LayerStrategy::kUniform;
    auto made = MakePlan(
        model->facts,
        {{.name = "coordinator"}, {.name = "worker-1", .address = fmt::format("127.0.0.1:{}", port)}},
        request);
    SHOAL_CHECK(made.ok());
    plan = *made;
  }
  ~OtherCoordinator() { cluster->close(engine, Cancelled("done")); }

  absl::StatusOr<OpenedModel> model = absl::UnknownError("not opened");
  PipelineEngine engine{kLocalLiveness};
  std::unique_ptr<RemoteCluster> cluster;
  Plan plan;
};

TEST_F(ClusterTest, AWorkerHoldsTwoModelsAndServesASessionOfEach) {
  const auto worker = StartWorker(worker_options("first"));
  const RemoteCluster::Options options = cluster_options({worker->port()});
  auto cluster = RemoteCluster::Start(options);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(plan_for(options), engine), absl::OkStatus());
  const ProbeRequest request{.ids = {1, 2, 3, 4, 5}, .greedy = 2};
  const auto before = ProbeLogits(engine, request);
  ASSERT_TRUE(before.ok()) << ToString(before.status());

  OtherCoordinator other(TinyCheckpoint("llama", AffineFormat{4, 64}), worker->port());
  ASSERT_EQ(other.cluster->open(other.plan, other.engine), absl::OkStatus());
  const auto theirs = ProbeLogits(other.engine, request);
  const auto ours = ProbeLogits(engine, {.ids = request.ids,
                                         .greedy = 2,
                                         .first_block = BlockId{8},
                                         .sequence = SeqId{2},
                                         .first_step = before->next_step});
  (*cluster)->close(engine, Cancelled("done"));
  ASSERT_TRUE(theirs.ok()) << ToString(theirs.status());
  ASSERT_TRUE(ours.ok()) << ToString(ours.status());
  EXPECT_EQ(ours->logits, before->logits);
  EXPECT_NE(theirs->logits, before->logits);
  EXPECT_TRUE(other.engine.state().status.ok());
}

TEST_F(ClusterTest, AModelThatTheMemoryDoesNotHoldBesideAnotherTakesItsPlace) {
  const Plan plan = plan_over(1);
  const NodeShard slice = ShardOf(plan, NodeId{1});
  auto options = worker_options("tight");
  options.memory_bytes = ShardBytes(model_.spec, model_.footprint, slice) +
                         CacheBytes(model_.facts, slice, plan.kv_dtype, limits()) + 1;
  const auto worker = StartWorker(options);
  const RemoteCluster::Options ours = cluster_options({worker->port()});
  auto cluster = RemoteCluster::Start(ours);
  ASSERT_TRUE(cluster.ok());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(plan_for(ours), engine), absl::OkStatus());
  OtherCoordinator other(TinyCheckpoint("llama", AffineFormat{4, 64}), worker->port());
  ASSERT_EQ(other.cluster->open(other.plan, other.engine), absl::OkStatus());
  const auto ended = [&] { return !engine.state().status.ok(); };
  for (int i = 0; i < 1000 && !ended(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(ended());
  EXPECT_LE(worker->describe().weight_bytes, options.memory_bytes);
  EXPECT_TRUE(ProbeLogits(other.engine, {.ids = {1, 2, 3}}).ok());
  (*cluster)->close(engine, Cancelled("done"));
}

TEST_F(ClusterTest, LoadingTellsBytesOverLayersAndExpertsAlike) {
  CpuBackend backend({});
  std::vector<std::pair<int64_t, int64_t>> told;
  const auto loaded = NodeModel::Load(model_.weights, ShardOf(plan_over(0), NodeId{0}), backend,
                                      [&](int64_t done, int64_t total) { told.emplace_back(done, total); });
  ASSERT_TRUE(loaded.ok());
  ASSERT_GT(told.size(), model_.spec.layers.size());
  for (size_t i = 0; i < told.size(); ++i) {
    EXPECT_EQ(told[i].second, model_.footprint.total.stored);
    EXPECT_GT(told[i].first, i == 0 ? 0 : told[i - 1].first - 1);
  }
  EXPECT_EQ(told.back().first, told.back().second);
}

TEST_F(ClusterTest, OnlyHoldersOfTheKeyAreServed) {
  const auto key = KeyAuth::from_key("a key of more than sixteen bytes");
  const auto other = KeyAuth::from_key("another key of sixteen bytes or more");
  ASSERT_TRUE(key.ok() && other.ok());
  auto options = worker_options("first");
  options.key = *key;
  const auto worker = StartWorker(options);

  auto without = cluster_options({worker->port()});
  EXPECT_EQ(open_once(without).code(), absl::StatusCode::kUnauthenticated);
  auto wrong = cluster_options({worker->port()});
  wrong.key = *other;
  EXPECT_EQ(open_once(wrong).code(), absl::StatusCode::kUnauthenticated);
  auto right = cluster_options({worker->port()});
  right.key = *key;
  EXPECT_EQ(open_once(right), absl::OkStatus());
}

TEST_F(ClusterTest, AWorkerWithoutTheKeyIsNotTrustedWithRows) {
  const auto key = KeyAuth::from_key("a key of more than sixteen bytes");
  const auto worker = StartWorker(worker_options("open"));
  auto options = cluster_options({worker->port()});
  options.key = *key;
  const absl::Status status = open_once(options);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), HasSubstr("key"));
}

TEST_F(ClusterTest, NeitherWorkerNorCoordinatorListensToStrangersUnasked) {
  WorkerNode::Options worker = worker_options("open");
  worker.listen = "0.0.0.0:0";
  EXPECT_THAT(ToString(WorkerNode::Start(worker).status()), HasSubstr("--insecure"));
  worker.insecure = true;
  EXPECT_TRUE(WorkerNode::Start(worker).ok());

  RemoteCluster::Options options = cluster_options({1});
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(ToString(RemoteCluster::Start(options).status()), HasSubstr("--insecure"));
  options.listen.clear();
  options.members[1].address = "10.1.2.3:50051";
  EXPECT_THAT(ToString(RemoteCluster::Start(options).status()), HasSubstr("10.1.2.3"));
  options.insecure = true;
  EXPECT_TRUE(RemoteCluster::Start(options).ok());
}

TEST(LocalAddress, LoopbackIsSeenFromLoopback) {
  const auto address = LocalAddressTowards("127.0.0.1", 9);
  ASSERT_TRUE(address.ok());
  EXPECT_EQ(*address, "127.0.0.1");
}

}  // namespace
}  // namespace shoal
