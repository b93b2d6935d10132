#include "cluster/node_host.h"

#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {

NodeHost::NodeHost(Options options) : options_(std::move(options)) {
  SHOAL_CHECK(options_.make_backend != nullptr);
}

NodeHost::~NodeHost() { close_all(); }

std::shared_ptr<NodeHost::Node> NodeHost::find(const HostedNode& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : found->second;
}

std::shared_ptr<Executor> NodeHost::executor_of(const Node& node) {
  if (node.executor != nullptr) return node.executor;
  if (options_.executors == HostThreads::kOneForEach) return std::make_shared<Executor>();
  if (shared_executor_ == nullptr) shared_executor_ = std::make_shared<Executor>();
  return shared_executor_;
}

template <typename Which>
void NodeHost::end_sessions(Which which) {
  std::vector<std::unique_ptr<NodeSession>> ended;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, node] : nodes_) {
      if (node->session == nullptr || !which(name, *node)) continue;
      ended.push_back(std::move(node->session));
      node->session_id = 0;
    }
  }
  for (const auto& session : ended) session->stop();
}

void NodeHost::close(uint64_t session) {
  end_sessions([session](const HostedNode&, const Node& node) { return node.session_id == session; });
}

void NodeHost::close(const HostedNode& node) {
  end_sessions([&](const HostedNode& name, const Node&) { return name == node; });
}

void NodeHost::close_all() {
  end_sessions([](const HostedNode&, const Node&) { return true; });
}

void NodeHost::drop(const HostedNode& node) {
  const std::lock_guard work(work_);
  end_sessions([&](const HostedNode& name, const Node&) { return name == node; });
  std::shared_ptr<Node> dropped;
  const std::lock_guard lock(mutex_);
  if (const auto found = nodes_.find(node); found != nodes_.end()) {
    dropped = std::move(found->second);
    nodes_.erase(found);
  }
}

void NodeHost::drop_prepared(const HostedNode& node) {
  std::shared_ptr<NodeModel> dropped;
  const std::lock_guard lock(mutex_);
  if (const auto found = nodes_.find(node); found != nodes_.end()) dropped = std::move(found->second->next);
}

bool NodeHost::holds(const HostedNode& node, const NodeShard& shard) const {
  const std::shared_ptr<Node> hosted = find(node);
  if (hosted == nullptr) return false;
  const std::lock_guard lock(mutex_);
  const auto is = [&shard](const auto& model) { return model != nullptr && model->shard() == shard; };
  return is(hosted->model) || is(hosted->next);
}

bool NodeHost::take_prepared(const HostedNode& node, const NodeShard& shard) {
  std::shared_ptr<Node> hosted;
  std::shared_ptr<NodeModel> next;
  {
    const std::lock_guard lock(mutex_);
    const auto found = nodes_.find(node);
    if (found == nodes_.end()) return false;
    hosted = found->second;
    if (hosted->model != nullptr && hosted->model->shard() == shard) return true;
    if (hosted->next == nullptr || hosted->next->shard() != shard) return false;
    // Taken out at once: while the session ends, prepare() and drop_prepared() may replace what is prepared.
    next = std::move(hosted->next);
  }
  end_sessions([&](const HostedNode& name, const Node&) { return name == node; });
  std::shared_ptr<NodeModel> old;
  const std::lock_guard lock(mutex_);
  old = std::exchange(hosted->model, std::move(next));
  return true;
}

absl::Status NodeHost::prepare(const HostedNode& node, std::shared_ptr<const ResolvedWeights> weights,
                               NodeShard shard, const LoadProgress& progress) {
  std::unique_lock loading(loading_);
  if (holds(node, shard)) return absl::OkStatus();
  const std::shared_ptr<Node> hosted = find(node);
  drop_prepared(node);  // There is room for one.
  std::shared_ptr<NodeModel> beside;
  if (hosted != nullptr) {
    const std::lock_guard lock(mutex_);
    beside = hosted->model;
  }
  if (beside == nullptr) {
    loading.unlock();
    return load(node, std::move(weights), std::move(shard), progress);
  }
  if (beside->checkpoint().content_identity() != weights->checkpoint().content_identity()) {
    return ResourceExhausted("node '{}' holds other weights under this model's name, and can't hold both",
                             node.name);
  }
  ASSIGN_OR_RETURN(std::shared_ptr<NodeModel> model,
                   NodeModel::Load(std::move(weights), std::move(shard), *hosted->backend, progress,
                                   options_.packed_cache, [this, node] {
                                     const std::lock_guard lock(mutex_);
                                     return to_load_.contains(node);
                                   }));
  LogInfo("loaded beside a session: {}, {} experts", model->load_stats().text(),
          model->held().expert_count());
  const std::lock_guard lock(mutex_);
  hosted->next = std::move(model);
  return absl::OkStatus();
}

std::unique_lock<std::mutex> NodeHost::turn_to_load(const HostedNode& node) {
  {
    const std::lock_guard lock(mutex_);
    to_load_.insert(node);
  }
  std::unique_lock loading(loading_);
  const std::lock_guard lock(mutex_);
  to_load_.extract(node);  // One of them.
  return loading;
}

absl::Status NodeHost::load(const HostedNode& node, std::shared_ptr<const ResolvedWeights> weights,
                            NodeShard shard, const LoadProgress& progress) {
  const std::unique_lock loading = turn_to_load(node);
  const std::lock_guard work(work_);
  if (take_prepared(node, shard)) return absl::OkStatus();
  end_sessions([&](const HostedNode& name, const Node&) { return name == node; });
  std::shared_ptr<NodeModel> old;
  std::shared_ptr<NodeModel> prepared;
  std::shared_ptr<Node> hosted;
  {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Node>& entry = nodes_[node];
    if (entry == nullptr) entry = std::make_shared<Node>();
    hosted = entry;
    old = std::move(hosted->model);
    prepared = std::move(hosted->next);
  }
  old.reset();
  prepared.reset();
  if (hosted->backend == nullptr) {
    auto backend = options_.make_backend(node);
    const std::lock_guard lock(mutex_);
    hosted->backend = std::move(backend);
    if (options_.profile) hosted->profile = std::make_unique<StepProfile>();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<NodeModel> model,
                   NodeModel::Load(std::move(weights), std::move(shard), *hosted->backend, progress,
                                   options_.packed_cache));
  LogInfo("loaded {}, {} experts", model->load_stats().text(), model->held().expert_count());
  const std::lock_guard lock(mutex_);
  hosted->model = std::move(model);
  return absl::OkStatus();
}

absl::Status NodeHost::open(const HostedNode& node, SessionSetup setup) {
  const std::lock_guard work(work_);
  const std::shared_ptr<Node> hosted = find(node);
  if (!take_prepared(node, ShardOf(setup.plan, setup.node))) {
    return FailedPrecondition("node '{}' does not hold its shard of this plan", node.name);
  }
  end_sessions([&](const HostedNode& name, const Node&) { return name == node; });
  hosted->executor = executor_of(*hosted);
  NodeSession::Options options;
  options.executor = hosted->executor.get();
  options.log_name = setup.plan.node(setup.node).name;
  options.plan = std::move(setup.plan);
  options.self = setup.node;
  options.model = hosted->model.get();
  options.profile = hosted->profile.get();
  options.hook = options_.hook;
  options.kv_disk = options_.kv_disk;
  options.transport = std::move(setup.transport);
  options.limits = setup.limits;
  options.limits.vocabulary = hosted->model->spec().vocabulary;
  options.expert_timeout = setup.expert_timeout;
  options.sink = setup.sink;
  ASSIGN_OR_RETURN(std::unique_ptr<NodeSession> session, NodeSession::Create(std::move(options)));
  RETURN_IF_ERROR(session->start());
  const std::lock_guard lock(mutex_);
  hosted->session = std::move(session);
  hosted->session_id = setup.session;
  return absl::OkStatus();
}

absl::Status NodeHost::connect(const HostedNode& node, Deadline deadline) {
  Transport* link = transport(node);
  if (link == nullptr) return FailedPrecondition("node '{}' has no session", node.name);
  return link->connect(deadline);
}

std::vector<NodeHost::NodeReport> NodeHost::report() const {
  std::vector<NodeReport> reports;
  const std::lock_guard lock(mutex_);
  for (const auto& [name, node] : nodes_) {
    NodeReport report{.node = name};
    if (node->model != nullptr) {
      report.weight_bytes = node->model->bytes();
      report.load = node->model->load_stats();
    }
    if (node->session != nullptr) {
      report.stats = node->session->stats();
      report.session = report.stats.running ? node->session_id : 0;
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

const NodeModel* NodeHost::model(const HostedNode& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : found->second->model.get();
}

Transport* NodeHost::transport(const HostedNode& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end() || found->second->session == nullptr) return nullptr;
  return &found->second->session->transport();
}

std::optional<TransportStats> NodeHost::links(const HostedNode& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end() || found->second->session == nullptr) return std::nullopt;
  return found->second->session->transport().stats();
}

const StepProfile* NodeHost::profile(const HostedNode& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : found->second->profile.get();
}

Backend* NodeHost::backend(const HostedNode& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : found->second->backend.get();
}

void NodeHost::finish_saving() {
  std::vector<std::shared_ptr<NodeModel>> models;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, node] : nodes_) {
      if (node->model != nullptr) models.push_back(node->model);
    }
  }
  for (const auto& model : models) model->finish_saving();
}

}  // namespace shoal
