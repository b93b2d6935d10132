#include "cluster/local_cluster.h"

#include <thread>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "compute/cpu_backend.h"
#include "exec/model_facts.h"
#include "wire/echo.h"
#include "wire/inproc.h"

namespace shoal {

absl::StatusOr<TransportKind> ParseTransportKind(std::string_view name) {
  if (name == "inproc") return TransportKind::kInproc;
  if (name == "grpc") return TransportKind::kGrpc;
  return InvalidArgument("transport '{}': expected inproc or grpc", name);
}

namespace {

/// Of the `index`-th node that asks for one.
std::unique_ptr<Backend> MakeCpuBackend(Isa isa, int threads, const std::vector<int>& cpus, size_t index) {
  std::vector<int> own;
  for (size_t i = 0; i < static_cast<size_t>(threads) && !cpus.empty(); ++i) {
    own.push_back(cpus[(index * static_cast<size_t>(threads) + i) % cpus.size()]);
  }
  return std::make_unique<CpuBackend>(CpuBackend::Options{isa, threads, std::move(own)});
}

/// Not 0.
uint64_t SessionOf(const Plan& plan) { return uint64_t{plan.epoch.value} + 1; }

}  // namespace

LocalCluster::LocalCluster(Options options) : options_(std::move(options)), host_(options_.host) {
  if (host_ != nullptr) return;
  NodeHost::Options host;
  host.make_backend = options_.make_backend;
  if (!host.make_backend) {
    host.make_backend = [isa = options_.isa, threads = options_.threads_per_node, cpus = options_.cpus,
                         next = size_t{0}](const HostedNode&) mutable {
      return MakeCpuBackend(isa, threads, cpus, next++);
    };
  }
  host.packed_cache = options_.packed_cache;
  host.expert_memory = options_.expert_memory;
  host.executors = HostThreads::kOneForEach;  // Stages of a pipeline compute at the same time.
  host.profile = options_.profile;
  host.hook = options_.hook;
  host.kv_disk = options_.kv_disk;
  host_ = std::make_shared<NodeHost>(std::move(host));
}

// Others may use the host: only what is this cluster's goes.
LocalCluster::~LocalCluster() {
  for (int32_t i = 0; i < nodes(); ++i) host_->drop(hosted(NodeId{i}));
}

void LocalCluster::close_nodes() {
  for (int32_t i = 0; i < nodes(); ++i) host_->close(hosted(NodeId{i}));
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Load(Options options) {
  const Plan plan = options.plan;
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(std::move(options)));
  RETURN_IF_ERROR(cluster->prepare(plan));
  return cluster;
}

absl::Status LocalCluster::prepare(const Plan& plan) {
  RETURN_IF_ERROR(Validate(plan));
  for (int32_t i = 0; i < nodes(); ++i) {  // What no longer takes part makes room first.
    if (!plan.find_node(options_.plan.node(NodeId{i}).name).has_value()) host_->drop(hosted(NodeId{i}));
  }
  options_.plan = plan;
  for (int32_t i = 0; i < nodes(); ++i) {
    const NodeId node{i};
    RETURN_IF_ERROR(host_->load(hosted(node), options_.weights, ShardOf(plan, node), options_.progress));
    if (options_.transport == TransportKind::kInproc) continue;
    if (static_cast<size_t>(i) == endpoints_.size()) {
      GrpcOptions grpc;
      grpc.name = plan.node(node).name;
      grpc.handshake_timeout = kLocalTimeout;
      grpc.keepalive_timeout = kLocalTimeout;
      ASSIGN_OR_RETURN(auto endpoint, GrpcEndpoint::start(std::move(grpc)));
      endpoints_.push_back(std::move(endpoint));
    }
    options_.plan.nodes[static_cast<size_t>(i)].address =
        fmt::format("127.0.0.1:{}", endpoints_[static_cast<size_t>(i)]->port());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::unique_ptr<Transport>>> LocalCluster::open_transports(Epoch epoch) {
  std::vector<std::unique_ptr<Transport>> transports;
  if (options_.transport == TransportKind::kInproc) {
    InprocOptions inproc;
    for (const PlanNode& node : options_.plan.nodes) inproc.names.push_back(node.name);
    InprocNetwork network(std::move(inproc));
    for (int32_t i = 0; i < nodes(); ++i) transports.push_back(network.open(NodeId{i}));
    return transports;
  }
  for (int32_t i = 0; i < nodes(); ++i) {
    ASSIGN_OR_RETURN(auto transport, endpoints_[static_cast<size_t>(i)]->open_session(WireSession(
                                         options_.plan, NodeId{i}, epoch.value, model(NodeId{i}))));
    transports.push_back(std::move(transport));
  }
  for (const auto& transport : transports)
    RETURN_IF_ERROR(transport->connect(Deadline::after(kLocalTimeout)));
  return transports;
}

absl::Status LocalCluster::open(const Plan& plan, PipelineEngine& engine) {
  RETURN_IF_ERROR(prepare(plan));
  ASSIGN_OR_RETURN(auto transports, open_transports(plan.epoch));
  std::vector<LayerSupply> moves;
  if (last_up_ != 0) {
    const std::vector<bool> all_there(last_plan_.nodes.size(), true);  // They are of this process.
    moves = *LayerSupplies(last_plan_, options_.plan, all_there, /*buddies=*/{});
  }
  std::optional<PipelineEngine::Wanted> wanted;
  if (!moves.empty()) wanted = engine.wanted(Deadline::after(kWantedMax));
  bool keeps = true;
  for (int32_t i = 0; i < nodes(); ++i) {
    NodeHost::SessionSetup setup = setup_of(NodeId{i}, moves, wanted);
    setup.transport = std::move(transports[static_cast<size_t>(i)]);
    if (i == 0) setup.sink = &engine;
    const absl::Status opened = host_->open(hosted(NodeId{i}), std::move(setup));
    if (!opened.ok()) close_nodes();
    RETURN_IF_ERROR(opened);
    keeps = keeps && host_->keeps_cache(hosted(NodeId{i}));
  }
  last_up_ = SessionOf(options_.plan);
  last_plan_ = options_.plan;
  engine.open(options_.plan, host_->transport(hosted(NodeId{0})),
              EngineLimitsOf(options_.plan, *host_->model(hosted(NodeId{0})), options_.limits),
              !keeps          ? KeptCaches::kNone
              : moves.empty() ? KeptCaches::kAll
                              : KeptCaches::kWanted);
  return absl::OkStatus();
}

NodeHost::SessionSetup LocalCluster::setup_of(NodeId node, const std::vector<LayerSupply>& moves,
                                              const std::optional<PipelineEngine::Wanted>& wanted) const {
  NodeHost::SessionSetup setup{.session = SessionOf(options_.plan),
                               .plan = options_.plan,
                               .node = node,
                               .limits = options_.limits,
                               .expert_timeout = kLocalTimeout,
                               .keep_from = last_up_};
  if (!wanted.has_value()) return setup;
  setup.places = wanted->places;
  setup.move_max = wanted->worth;
  setup.gives = true;
  for (const LayerSupply& move : moves) {
    if (move.to != node) continue;
    const HostedNode from{last_plan_.node(move.from).name, hosted(node).model_hash};
    setup.sources.push_back(
        {move.layers, "", [this, from](const CacheRequest& request, Deadline deadline, TakeImages take) {
           return host_->give_cached(from, request, deadline, take);
         }});
  }
  return setup;
}

void LocalCluster::close(PipelineEngine& engine, const absl::Status& why) {
  engine.close(why);
  close_nodes();
}

absl::StatusOr<std::vector<double>> LocalCluster::round_trips_us(Epoch epoch, int64_t payload_bytes,
                                                                 int count) {
  SHOAL_CHECK_GE(nodes(), 2);
  ASSIGN_OR_RETURN(const auto transports, open_transports(epoch));
  const EchoNode echo(*transports[1], [this] { host_->backend(hosted(NodeId{1}))->enter_thread(); });
  Frame frame;
  frame.payload = Buffer::copy_of(std::vector<std::byte>(static_cast<size_t>(payload_bytes)));
  std::vector<double> us;
  absl::Status status;
  std::thread asker([&] {
    host_->backend(hosted(NodeId{0}))->enter_thread();
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
  for (const NodeHost::NodeReport& node : host_->report()) {
    if (node.node.model_hash != options_.weights->checkpoint().hash()) continue;
    if (options_.plan.find_node(node.node.name).has_value()) sum += node.load;
  }
  return sum;
}

std::vector<TransportStats> LocalCluster::link_stats() const {
  std::vector<TransportStats> stats;
  for (int32_t i = 0; i < nodes(); ++i) {
    if (std::optional<TransportStats> links = host_->links(hosted(NodeId{i}))) stats.push_back(*links);
  }
  return stats;
}

}  // namespace shoal
