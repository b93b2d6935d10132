// Who may give orders to a worker, and what a stranger gets of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/status.h"
#include "cluster/model_locator.h"
#include "cluster/remote_cluster.h"
#include "cluster/worker_node.h"
#include "convert/testing/checkpoints.h"
#include "exec/model_facts.h"
#include "measure/logits_probe.h"
#include "plan/planner.h"
#include "tls/testing/identities.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr Duration kCallTimeout = std::chrono::seconds(10);

using Identity = std::shared_ptr<const TlsIdentity>;
ClusterKey Tls(Identity identity) { return ClusterKey(std::nullopt, std::move(identity)); }

/// A worker, and a coordinator that may give it orders.
class TrustTest : public testing::Test {
 protected:
  TrustTest() : folder_(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64})) {
    auto model = OpenModel(folder_);
    SHOAL_CHECK(model.ok());
    model_ = *std::move(model);
  }

  void start(ClusterKey key, const std::string& listen = "127.0.0.1:0") {
    WorkerNode::Options options;
    options.name = "worker-1";
    options.listen = listen;
    options.model_roots = {std::filesystem::path(folder_).parent_path().string()};
    options.isa = SupportedIsas().back();
    options.key = std::move(key);
    auto worker = WorkerNode::Start(std::move(options));
    SHOAL_CHECK(worker.ok());
    worker_ = *std::move(worker);
  }
  std::string address() const { return fmt::format("127.0.0.1:{}", worker_->port()); }

  Plan plan(const std::string& node = "worker-1") const {
    PlanRequest request;
    request.strategy = LayerStrategy::kUniform;
    request.experts.strategy = ExpertStrategy::kRoundRobin;
    auto made =
        MakePlan(model_.facts, {{.name = "coordinator"}, {.name = node, .address = address()}}, request);
    SHOAL_CHECK(made.ok());
    return *made;
  }

  std::unique_ptr<RemoteCluster> coordinator(ClusterKey key, const std::string& node = "worker-1") {
    RemoteCluster::Options options;
    options.weights = model_.weights;
    options.members = {{"coordinator", ""}, {node, address()}};
    options.limits = [this](const Plan&) { return limits(); };
    options.model_names = ModelNames(folder_, "");
    options.isa = SupportedIsas().back();
    options.expert_timeout = kLocalTimeout;
    options.key = std::move(key);
    auto cluster = RemoteCluster::Start(std::move(options));
    SHOAL_CHECK(cluster.ok());
    return *std::move(cluster);
  }
  StepLimits limits() const { return {model_.spec.max_positions, model_.spec.vocabulary, 16, 256}; }

  /// Why no session comes about; OK where one computes.
  absl::Status serve(ClusterKey key, const std::string& node = "worker-1") {
    const auto cluster = coordinator(std::move(key), node);
    PipelineEngine engine(kLocalLiveness);
    absl::Status status = cluster->open(plan(node), engine);
    if (status.ok()) status = ProbeLogits(engine, {.ids = {1, 2, 3}}).status();
    cluster->close(engine, Cancelled("done"));
    return status;
  }

  std::string folder_;
  OpenedModel model_;
  std::unique_ptr<WorkerNode> worker_;
};

// A token is bound to a process by a challenge, which a client learns from the first answer.
TEST_F(TrustTest, ACallerWithTheKeyIsServedAgainAfterTheWorkerWasRestarted) {
  const auto key = KeyAuth::from_key("a key of more than sixteen bytes");
  ASSERT_TRUE(key.ok());
  start(*key);
  WorkerClient client(address(), *key);
  const auto before = client.describe(Deadline::after(kCallTimeout));
  ASSERT_TRUE(before.ok()) << ToString(before.status());
  const std::string listen = address();
  worker_.reset();
  start(*key, listen);
  const auto after = client.describe(Deadline::after(kCallTimeout));
  ASSERT_TRUE(after.ok()) << ToString(after.status());
  EXPECT_NE(after->instance, before->instance);
}

TEST_F(TrustTest, AStrangerLearnsNoSessionAndSoCannotEndIt) {
  start({});
  const auto cluster = coordinator({});
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ(cluster->open(plan(), engine), absl::OkStatus());
  WorkerClient stranger(address(), std::nullopt);
  const auto told = stranger.describe(Deadline::after(kCallTimeout));
  ASSERT_TRUE(told.ok()) << ToString(told.status());
  EXPECT_EQ(told->state, WorkerState::kServing);
  EXPECT_EQ(told->session, 0u);
  EXPECT_NE(worker_->describe().session, 0u);
  EXPECT_TRUE(stranger.close(told->session, Deadline::after(kCallTimeout)).ok());
  EXPECT_TRUE(worker_->in_session());
  EXPECT_TRUE(ProbeLogits(engine, {.ids = {1, 2, 3}}).ok());
  cluster->close(engine, Cancelled("done"));
}

TEST_F(TrustTest, AWorkerWithoutAKeyIsMadeToDialNoOtherMachine) {
  start({});
  WorkerClient stranger(address(), std::nullopt);
  const auto results = stranger.check_peers(
      {.peers = {{"a", "10.1.2.3:22"}, {"b", "127.0.0.1:1"}}, .probe_bytes = 0, .timeout = kCallTimeout});
  ASSERT_TRUE(results.ok()) << ToString(results.status());
  EXPECT_THAT(ToString(results->front().status), AllOf(HasSubstr("10.1.2.3"), HasSubstr("--key-file")));

  PrepareOrder order{.plan = plan(), .node = NodeId{1}, .model_names = {"model"}};
  order.plan.nodes[0].address = "10.1.2.3:22";
  EXPECT_THAT(ToString(worker_->prepare(order, nullptr).status()), HasSubstr("10.1.2.3"));
  EXPECT_THAT(ToString(worker_->open({.session = 1, .plan = order.plan, .node = NodeId{1}}).status()),
              HasSubstr("10.1.2.3"));
}

TEST_F(TrustTest, WithCertificatesTheClusterServesAndStrangersDoNot) {
  TestAuthority authority;
  TestAuthority other;
  start(Tls(authority.node("worker-1")));
  EXPECT_EQ(serve(Tls(authority.node("coordinator"))), absl::OkStatus());
  EXPECT_THAT(ToString(serve(Tls(other.node("coordinator")))), HasSubstr("authority"));
  EXPECT_FALSE(serve({}).ok());
  // Both ways at once: each has the certificate and the key.
  const auto key = KeyAuth::from_key("a key of more than sixteen bytes");
  start(ClusterKey(*key, authority.node("worker-1")));
  EXPECT_EQ(serve(ClusterKey(*key, authority.node("coordinator"))), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnauthenticated(serve(Tls(authority.node("coordinator")))));
}

TEST_F(TrustTest, ANodeOfTheClusterDoesNotPassForAnother) {
  TestAuthority authority;
  start(Tls(authority.node("worker-2")));
  EXPECT_THAT(ToString(serve(Tls(authority.node("coordinator")))),
              AllOf(HasSubstr("is for 'worker-2'"), HasSubstr("shoal cert node worker-1")));
  RemoteCluster::Options options;
  options.weights = model_.weights;
  options.members = {{"coordinator", ""}};
  options.key = Tls(authority.node("worker-2"));
  EXPECT_THAT(ToString(RemoteCluster::Start(std::move(options)).status()),
              HasSubstr("plans call this node 'coordinator'"));
}

TEST_F(TrustTest, AnEndedCertificateIsNamedToWhoeverCalls) {
  TestAuthority authority;
  start(Tls(authority.ended_node("worker-1")));
  EXPECT_THAT(ToString(serve(Tls(authority.node("coordinator")))),
              AllOf(HasSubstr("ended on"), HasSubstr("shoal cert node worker-1")));
}

}  // namespace
}  // namespace shoal
