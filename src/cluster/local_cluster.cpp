#include "cluster/local_cluster.h"

#include <thread>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "wire/echo.h"
#include "wire/inproc.h"

namespace shoal {

absl::StatusOr<TransportKind> ParseTransportKind(std::string_view name) {
  if (name == "inproc") return TransportKind::kInproc;
  if (name == "grpc") return TransportKind::kGrpc;
  return InvalidArgument("transport '{}': expected inproc or grpc", name);
}

namespace {

std::vector<int> CpusOf(const LocalCluster::Options& options, size_t node) {
  std::vector<int> cpus;
  if (options.cpus.empty()) return cpus;
  const auto threads = static_cast<size_t>(options.threads_per_node);
  for (size_t i = 0; i < threads; ++i)
    cpus.push_back(options.cpus[(node * threads + i) % options.cpus.size()]);
  return cpus;
}

}  // namespace

LocalCluster::LocalCluster(Options options) : options_(std::move(options)) {}

LocalCluster::~LocalCluster() = default;

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Load(Options options) {
  const Plan plan = options.plan;
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(std::move(options)));
  RETURN_IF_ERROR(cluster->prepare(plan));
  return cluster;
}

absl::Status LocalCluster::prepare(const Plan& plan) {
  RETURN_IF_ERROR(Validate(plan));
  options_.plan = plan;
  nodes_.resize(plan.nodes.size());
  for (size_t i = 0; i < nodes_.size(); ++i) RETURN_IF_ERROR(prepare_node(i));
  return absl::OkStatus();
}

absl::Status LocalCluster::prepare_node(size_t index) {
  const Options& o = options_;
  Node& node = nodes_[index];
  if (node.pool == nullptr) {
    node.pool = std::make_unique<ThreadPool>(o.threads_per_node, CpusOf(o, index));
    if (o.profile) node.profile = std::make_unique<StepProfile>();
  }
  NodeSlice slice = SliceOf(o.plan, NodeId{static_cast<int32_t>(index)});
  if (node.model == nullptr || !(node.model->slice() == slice)) {
    node.model.reset();  // Memory is for one slice, not for two.
    ASSIGN_OR_RETURN(node.model,
                     NodeModel::Load(o.weights, std::move(slice), *node.pool, o.progress, o.packed_cache));
  }
  if (o.transport == TransportKind::kInproc) return absl::OkStatus();
  if (node.endpoint == nullptr) {
    GrpcOptions grpc;
    grpc.name = o.plan.nodes[index].name;
    grpc.handshake_timeout = kLocalTimeout;
    grpc.keepalive_timeout = kLocalTimeout;
    ASSIGN_OR_RETURN(node.endpoint, GrpcEndpoint::start(std::move(grpc)));
  }
  options_.plan.nodes[index].address = fmt::format("127.0.0.1:{}", node.endpoint->port());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::unique_ptr<Transport>>> LocalCluster::open_transports(Epoch epoch) {
  std::vector<std::unique_ptr<Transport>> transports(nodes_.size());
  if (options_.transport == TransportKind::kInproc) {
    InprocOptions inproc;
    for (const PlanNode& node : options_.plan.nodes) inproc.names.push_back(node.name);
    InprocNetwork network(std::move(inproc));
    for (size_t i = 0; i < nodes_.size(); ++i) transports[i] = network.open(NodeId{static_cast<int32_t>(i)});
    return transports;
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const NodeId self{static_cast<int32_t>(i)};
    ASSIGN_OR_RETURN(transports[i],
                     nodes_[i].endpoint->open_session(WireSession(options_.plan, self, epoch.value,
                                                                  options_.weights->checkpoint().hash())));
  }
  for (const auto& transport : transports)
    RETURN_IF_ERROR(transport->connect(Deadline::after(kLocalTimeout)));
  return transports;
}

absl::Status LocalCluster::open(const Plan& plan, PipelineEngine& engine) {
  RETURN_IF_ERROR(prepare(plan));
  ASSIGN_OR_RETURN(auto transports, open_transports(plan.epoch));
  std::vector<std::unique_ptr<NodeSession>> sessions(nodes_.size());
  for (size_t i = 0; i < nodes_.size(); ++i) {
    NodeSession::Options session;
    session.plan = options_.plan;
    session.self = NodeId{static_cast<int32_t>(i)};
    session.model = nodes_[i].model.get();
    session.kernels = &SelectKernels(options_.isa);
    session.pool = nodes_[i].pool.get();
    session.profile = nodes_[i].profile.get();
    session.hook = options_.hook;
    session.transport = std::move(transports[i]);
    session.limits = options_.limits;
    session.expert_timeout = kLocalTimeout;
    session.sink = i == 0 ? &engine : nullptr;
    session.log_name = options_.plan.nodes[i].name;
    ASSIGN_OR_RETURN(sessions[i], NodeSession::Create(std::move(session)));
  }
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < nodes_.size(); ++i) {
    nodes_[i].session = std::move(sessions[i]);
    nodes_[i].session->start();
  }
  engine.open(options_.plan, &nodes_[0].session->transport(),
              {options_.limits.blocks, options_.limits.context, static_cast<int>(options_.plan.stages.size()),
               static_cast<int>(options_.limits.vocabulary), ShortRopePositions(options_.weights->spec()),
               options_.limits.state_slots});
  return absl::OkStatus();
}

void LocalCluster::close(PipelineEngine& engine, const absl::Status& why) {
  engine.close(why);
  std::vector<std::unique_ptr<NodeSession>> sessions;
  {
    const std::lock_guard lock(mutex_);
    for (Node& node : nodes_) sessions.push_back(std::move(node.session));
  }
  for (const auto& session : sessions) {
    if (session != nullptr) session->stop();
  }
}

absl::StatusOr<std::vector<double>> LocalCluster::round_trips_us(Epoch epoch, int64_t payload_bytes,
                                                                 int count) {
  SHOAL_CHECK_GE(nodes_.size(), size_t{2});
  ASSIGN_OR_RETURN(const auto transports, open_transports(epoch));
  const EchoNode echo(*transports[1], [this] { nodes_[1].pool->pin_caller(); });
  Frame frame;
  frame.payload = Buffer::copy_of(std::vector<std::byte>(static_cast<size_t>(payload_bytes)));
  std::vector<double> us;
  absl::Status status;
  std::thread asker([&] {
    nodes_[0].pool->pin_caller();
    for (int i = -count / 10; i < count && status.ok(); ++i) {
      const int64_t begin_ns = NowNs();
      status = RoundTrip(*transports[0], NodeId{1}, frame, Deadline::after(kLocalTimeout));
      if (i >= 0) us.push_back(1e-3 * static_cast<double>(NowNs() - begin_ns));
    }
  });
  asker.join();
  RETURN_IF_ERROR(status);
  return us;
}

LoadStats LocalCluster::load_stats() const {
  LoadStats sum;
  for (const Node& node : nodes_) sum += node.model->load_stats();
  return sum;
}

void LocalCluster::finish_saving() {
  for (const Node& node : nodes_) node.model->finish_saving();
}

std::vector<TransportStats> LocalCluster::link_stats() const {
  const std::lock_guard lock(mutex_);
  std::vector<TransportStats> stats;
  for (const Node& node : nodes_) {
    if (node.session != nullptr) stats.push_back(node.session->transport().stats());
  }
  return stats;
}

}  // namespace shoal
