#include "cluster/remote_cluster.h"

#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"
#include "base/text.h"
#include "numeric/version.h"

namespace shoal {
namespace {

constexpr int64_t kDescribeMs = 2000;
constexpr int64_t kOpenMs = 8000;  // Longer than a worker's own wait for its peers.
constexpr int64_t kConnectMs = 5000;
constexpr int64_t kCloseMs = 1000;
constexpr int64_t kPrepareMs =
    3'600'000;  // Large models on slow disks; a dead worker is found by keep-alive.

void AddLinks(const TransportStats& more, TransportStats& total) {
  for (const auto& [peer, link] : more.peers) {
    LinkStats& sum = total.peers[peer];
    sum.frames_sent += link.frames_sent;
    sum.bytes_sent += link.bytes_sent;
    sum.frames_received += link.frames_received;
    sum.bytes_received += link.bytes_received;
  }
}

}  // namespace

RemoteCluster::RemoteCluster(Options options)
    : options_(std::move(options)),
      pool_(options_.threads, options_.cpus),
      session_base_(EntropySeed() << 32) {}

RemoteCluster::~RemoteCluster() = default;

absl::StatusOr<std::unique_ptr<RemoteCluster>> RemoteCluster::Start(Options options) {
  std::unique_ptr<RemoteCluster> cluster(new RemoteCluster(std::move(options)));
  Options& o = cluster->options_;
  const size_t nodes = o.plan.nodes.size();
  cluster->status_.resize(nodes);
  cluster->workers_.resize(nodes);
  cluster->samples_.resize(nodes);
  for (size_t i = 1; i < nodes; ++i) {
    cluster->workers_[i] = std::make_unique<WorkerClient>(o.plan.nodes[i].address, o.key);
  }
  std::string host = "127.0.0.1";
  if (nodes > 1) {
    ASSIGN_OR_RETURN(const HostPort worker, ParseHostPort(o.plan.nodes[1].address));
    ASSIGN_OR_RETURN(host, LocalAddressTowards(worker.host, worker.port));
  }
  HostPort listen{host, 0};
  if (!o.listen.empty()) {
    ASSIGN_OR_RETURN(listen, ParseHostPort(o.listen));
  }
  GrpcOptions grpc;
  grpc.listen = listen.to_string();
  grpc.name = o.plan.nodes[0].name;
  grpc.key = o.key;
  ASSIGN_OR_RETURN(cluster->endpoint_, GrpcEndpoint::start(std::move(grpc)));
  // A wildcard is a fine place to listen, but nobody can dial it.
  const bool wildcard = listen.host == "0.0.0.0" || listen.host == "::";
  o.plan.nodes[0].address = HostPort{wildcard ? host : listen.host, cluster->endpoint_->port()}.to_string();
  return cluster;
}

absl::Status RemoteCluster::for_each_worker(absl::FunctionRef<absl::Status(NodeId, WorkerClient&)> call) {
  std::vector<absl::Status> results(workers_.size());
  std::vector<std::thread> threads;
  for (size_t i = 1; i < workers_.size(); ++i) {
    threads.emplace_back([&, i] {
      SetThreadLogName(options_.plan.nodes[0].name, 0);
      results[i] = stopping_ ? Cancelled("the server is shutting down")
                             : call(NodeId{static_cast<int32_t>(i)}, *workers_[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& result : results) RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

void RemoteCluster::note(NodeId node, std::string state, const absl::Status& status) {
  const std::lock_guard lock(mutex_);
  NodeStatus& entry = status_[static_cast<size_t>(node.value)];
  entry.state = std::move(state);
  entry.error = status.ok() ? "" : Message(status);
}

absl::Status RemoteCluster::check_worker(NodeId node, WorkerClient& client) {
  const absl::StatusOr<WorkerFacts> facts = client.describe(Deadline::after_ms(kDescribeMs));
  if (!facts.ok()) {
    const absl::Status named =
        Annotate(facts.status(), fmt::format("node '{}'", options_.plan.node(node).name));
    note(node, "lost", named);
    return named;
  }
  {
    const std::lock_guard lock(mutex_);
    status_[static_cast<size_t>(node.value)].facts = *facts;
  }
  if (facts->wire_version != kWireVersion || facts->numerics_version != kNumericsVersion) {
    const absl::Status mismatch = FailedPrecondition(
        "node '{}' at {} runs shoal {} (wire {}, numerics {}); this is wire {}, numerics {}. Use the same "
        "build on all nodes",
        options_.plan.node(node).name, client.address(), facts->version, facts->wire_version,
        facts->numerics_version, kWireVersion, kNumericsVersion);
    note(node, "lost", mismatch);
    return mismatch;
  }
  note(node, facts->state, absl::OkStatus());
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RemoteCluster::prepare(NodeId node, WorkerClient& client,
                                               const PrepareProgress& progress) {
  std::optional<Samples>& samples = samples_[static_cast<size_t>(node.value)];
  NodeSlice slice = SliceOf(options_.plan, node);
  if (!samples.has_value() || !(samples->slice == slice)) {
    auto taken = SampleSlice(*options_.weights, slice);
    samples = Samples{std::move(slice), std::move(taken)};
  }
  const PrepareOrder order{options_.plan, node, options_.model_names, options_.weights->checkpoint().hash(),
                           samples->taken};
  return client.prepare(order, progress, Deadline::after_ms(kPrepareMs));
}

absl::Status RemoteCluster::prepare_own() {
  NodeSlice slice = SliceOf(options_.plan, NodeId{0});
  if (model_ != nullptr && model_->slice() == slice) return absl::OkStatus();
  model_.reset();  // Memory is for one slice, not for two.
  const auto report = [this](int64_t done, int64_t total) {
    if (options_.progress) options_.progress(NodeId{0}, done, total);
  };
  ASSIGN_OR_RETURN(model_,
                   NodeModel::Load(options_.weights, std::move(slice), pool_, report, options_.packed_cache));
  LogInfo("loaded {}, {} experts", model_->load_stats().text(), model_->experts().count());
  return absl::OkStatus();
}

absl::Status RemoteCluster::prepare_all() {
  const auto report = [this](NodeId node, int64_t done, int64_t total) {
    if (options_.progress) options_.progress(node, done, total);
  };
  // The coordinator loads its own shard while the workers load theirs.
  absl::Status own;
  std::thread loader([&] {
    SetThreadLogName(options_.plan.nodes[0].name, 0);
    own = prepare_own();
  });
  const absl::Status workers = for_each_worker([&](NodeId node, WorkerClient& client) {
    note(node, "loading", absl::OkStatus());
    const auto bytes = prepare(node, client, [&](int64_t done, int64_t total) { report(node, done, total); });
    note(node, bytes.ok() ? "ready" : "failed", bytes.status());
    return bytes.status();
  });
  loader.join();
  RETURN_IF_ERROR(own);
  return workers;
}

absl::Status RemoteCluster::open(const Plan& plan, PipelineEngine& engine) {
  SHOAL_CHECK_EQ(plan.nodes.size(), options_.plan.nodes.size());
  const std::string own_address = options_.plan.nodes[0].address;
  options_.plan = plan;
  options_.plan.nodes[0].address = own_address;
  RETURN_IF_ERROR(
      for_each_worker([this](NodeId node, WorkerClient& client) { return check_worker(node, client); }));
  RETURN_IF_ERROR(prepare_all());
  const uint64_t session = session_base_ + plan.epoch.value;
  session_id_ = session;
  absl::Status own;
  std::thread opener([&] {
    SetThreadLogName(options_.plan.nodes[0].name, 0);
    own = open_own_session(session, engine);
  });
  const absl::Status opened = for_each_worker([&](NodeId node, WorkerClient& client) {
    const OpenOrder order{session, options_.plan, node, options_.limits, options_.expert_timeout};
    const absl::Status status = client.open(order, Deadline::after_ms(kOpenMs));
    note(node, status.ok() ? "up" : "failed", status);
    return status;
  });
  opener.join();
  const absl::Status status = opened.ok() ? own : opened;
  if (!status.ok()) {
    close(engine, status);
    return status;
  }
  note(NodeId{0}, "up", absl::OkStatus());
  engine.open(options_.plan, &session_->transport(),
              {options_.limits.blocks, options_.limits.context, static_cast<int>(options_.plan.stages.size()),
               static_cast<int>(options_.limits.vocabulary), ShortRopePositions(options_.weights->spec()),
               options_.limits.state_slots});
  return absl::OkStatus();
}

absl::Status RemoteCluster::open_own_session(uint64_t session, PipelineEngine& engine) {
  ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport,
                   endpoint_->open_session(WireSession(options_.plan, NodeId{0}, session,
                                                       options_.weights->checkpoint().hash())));
  NodeSession::Options options;
  options.plan = options_.plan;
  options.self = NodeId{0};
  options.model = model_.get();
  options.kernels = &SelectKernels(options_.isa);
  options.pool = &pool_;
  options.transport = std::move(transport);
  options.limits = options_.limits;
  options.expert_timeout = options_.expert_timeout;
  options.sink = &engine;
  options.log_name = options_.plan.nodes[0].name;
  ASSIGN_OR_RETURN(std::unique_ptr<NodeSession> own, NodeSession::Create(std::move(options)));
  Transport& link = own->transport();
  {
    const std::lock_guard lock(mutex_);
    session_ = std::move(own);
    session_->start();
  }
  return link.connect(Deadline::after_ms(kConnectMs));
}

void RemoteCluster::close(PipelineEngine& engine, const absl::Status& why) {
  const NodeId suspected = engine.suspected();
  engine.close(why);
  if (suspected.value > 0) note(suspected, "lost", why);
  std::unique_ptr<NodeSession> session;
  {
    const std::lock_guard lock(mutex_);
    if (session_ != nullptr) AddLinks(session_->transport().stats(), ended_links_);
    session = std::move(session_);
  }
  if (session != nullptr) session->stop();
  if (session_id_ == 0) return;
  const uint64_t id = std::exchange(session_id_, 0);
  // A worker that cannot be told finds its links closed, and the next session replaces this one.
  (void)for_each_worker([id](NodeId, WorkerClient& client) {
    (void)client.close(id, Deadline::after_ms(kCloseMs));
    return absl::OkStatus();
  });
}

void RemoteCluster::interrupt() {
  stopping_ = true;
  for (const auto& worker : workers_) {
    if (worker != nullptr) worker->cancel();
  }
}

std::vector<NodeStatus> RemoteCluster::status(Deadline deadline) {
  (void)for_each_worker([&](NodeId node, WorkerClient& client) {
    const absl::StatusOr<WorkerFacts> facts = client.describe(deadline);
    const std::lock_guard lock(mutex_);
    NodeStatus& entry = status_[static_cast<size_t>(node.value)];
    if (facts.ok()) {
      entry.facts = *facts;
      entry.state = facts->state == "serving" ? "up" : facts->state;
      if (entry.state == "up") entry.error.clear();
    } else if (entry.state != "loading") {
      entry.state = "lost";
      entry.error = Message(facts.status());
    }
    return absl::OkStatus();
  });
  const std::lock_guard lock(mutex_);
  return status_;
}

TransportStats RemoteCluster::link_stats() const {
  const std::lock_guard lock(mutex_);
  TransportStats total = ended_links_;
  if (session_ != nullptr) AddLinks(session_->transport().stats(), total);
  return total;
}

}  // namespace shoal
