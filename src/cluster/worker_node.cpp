#include "cluster/worker_node.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/exposure.h"
#include "base/log.h"
#include "base/process.h"
#include "base/random.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"
#include "compute/cpu_backend.h"

namespace shoal {
namespace {

constexpr int64_t kLinksMs = 5000;
constexpr int64_t kLinksAheadMs = 1500;  // With kTurnMax less than the coordinator waits.

/// Of all copies that a session may keep.
int64_t BytesMax(const std::vector<FollowedNode>& follows) {
  int64_t bytes = 0;
  for (const FollowedNode& one : follows) {
    bytes += std::min(std::max<int64_t>(one.bytes_max, 0), std::numeric_limits<int64_t>::max() - bytes);
  }
  return bytes;
}

}  // namespace

WorkerNode::WorkerNode(Options options)
    : options_(std::move(options)),
      instance_(EntropySeed() | 1),  // Not 0.
      host_({.make_backend = [this](const HostedNode&) -> std::unique_ptr<Backend> {
               if (options_.make_backend) return options_.make_backend();
               return std::make_unique<CpuBackend>(
                   CpuBackend::Options{options_.isa, options_.threads, options_.cpus});
             },
             .packed_cache = options_.packed_cache,
             .expert_memory = options_.expert_memory,
             .kv_disk = options_.kv_disk}),
      shelf_(std::make_shared<ByteRate>(options_.weights_rate)) {
  if (options_.fetched == nullptr) return;
  weights_ =
      std::make_unique<WorkerWeights>(WorkerWeights::Options{options_.name, options_.fetched, options_.key});
}

WorkerNode::~WorkerNode() {
  if (weights_ != nullptr) weights_->stop();
  endpoint_.reset();  // Ends calls first: nothing then touches what is torn down.
}

absl::StatusOr<std::unique_ptr<WorkerNode>> WorkerNode::Start(Options options) {
  ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(options.listen));
  RETURN_IF_ERROR(CheckExposure({"worker --listen", listen.host, options.key.has_value(), options.insecure}));
  std::unique_ptr<WorkerNode> node(new WorkerNode(std::move(options)));
  node->service_ = std::make_unique<ControlService>(*node, node->options_.key);
  GrpcOptions grpc;
  grpc.listen = node->options_.listen;
  grpc.name = node->options_.name;
  grpc.key = node->options_.key;
  node->probes_ = std::make_unique<ProbeService>(node->instance_, node->options_.key);
  node->weights_service_ = std::make_unique<WeightsService>(node->shelf_, node->options_.key);
  node->cache_service_ = std::make_unique<CacheService>(*node, node->options_.key);
  grpc.services = {node->service_->service(), node->probes_->service(), node->weights_service_->service(),
                   node->cache_service_->service()};
  {  // Calls may come before start() returns: they wait for its result.
    const std::lock_guard lock(node->mutex_);
    ASSIGN_OR_RETURN(node->endpoint_, GrpcEndpoint::start(std::move(grpc)));
  }
  return node;
}

WorkerFacts WorkerNode::describe() {
  WorkerFacts facts;
  facts.name = options_.name;
  facts.wire_version = kWireVersion;
  facts.numerics_class = options_.numerics_class;
  facts.version = options_.version;
  facts.device = options_.device;
  facts.isa = std::string(IsaName(options_.isa));
  facts.threads = options_.threads;
  facts.memory_bytes = options_.memory_bytes;
  facts.expert_memory = options_.expert_memory;
  facts.resident_bytes = ResidentBytes();
  facts.rates = options_.rates;
  facts.instance = instance_;
  facts.weights_sent_bytes = shelf_.bytes_sent();
  if (weights_ != nullptr) {
    const WorkerWeights::Progress fetching = weights_->progress();
    facts.fetched_bytes = fetching.done;
    facts.fetch_total_bytes = fetching.total;
  }
  bool serving = false;
  for (const NodeHost::NodeReport& node : host_.report()) {
    facts.weight_bytes += node.weight_bytes;
    if (node.expert_tier.has_value()) {
      facts.expert_tier = facts.expert_tier.value_or(ExpertTierStats{}) + *node.expert_tier;
    }
    facts.copied_bytes += node.copied.bytes;
    facts.copies += node.copies.places;
    facts.copies_bytes += node.copies.bytes;
    facts.copies_evicted += node.copies.evicted;
    if (node.session == 0 || node.stats.orphaned) continue;
    serving = true;
    facts.session = node.session;
    for (const auto& [peer, link] : node.links) {
      if (peer == options_.name) continue;  // To itself nothing travels.
      facts.links.push_back({peer, static_cast<int64_t>(link.bytes_sent),
                             static_cast<int64_t>(link.frames_sent),
                             static_cast<int64_t>(link.bytes_waiting)});
    }
    facts.steps += node.stats.steps;
    facts.expert_calls += node.stats.expert_calls_served;
  }
  const std::lock_guard lock(mutex_);
  facts.state = loading_ > 0             ? WorkerState::kLoading
                : serving                ? WorkerState::kServing
                : facts.weight_bytes > 0 ? WorkerState::kReady
                                         : WorkerState::kIdle;
  return facts;
}

bool WorkerNode::in_session() const {
  return std::ranges::any_of(host_.report(),
                             [](const NodeHost::NodeReport& node) { return node.session != 0; });
}

absl::Status WorkerNode::named(const absl::Status& status) const {
  return Annotate(status, fmt::format("worker '{}'", options_.name));
}

// Not for long, so whoever asked may ask again: a coordinator has several models, and more than one may own this worker.
absl::Status WorkerNode::busy() const {
  return Unavailable("worker '{}' is busy with another call, such as to load a model; try again",
                     options_.name);
}

// Whoever reaches the port without a key could else look around, from here, in networks that only this machine reaches.
absl::Status WorkerNode::check_dial(const std::string& address) const {
  if (options_.key.has_value() || options_.insecure) return absl::OkStatus();
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  return named(CheckExposure({"worker, towards a node", at.host}));
}

absl::Status WorkerNode::check_dials(const Plan& plan, NodeId self) const {
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const std::string& address = plan.nodes[i].address;
    if (!address.empty() && static_cast<int32_t>(i) != self.value) RETURN_IF_ERROR(check_dial(address));
  }
  return absl::OkStatus();
}

const WorkerNode::Held* WorkerNode::held_for(const Plan& plan) const {
  // A hand-written plan does not say its model.
  const auto held =
      plan.model_hash.empty() && held_.size() == 1 ? held_.begin() : held_.find(plan.model_hash);
  return held == held_.end() ? nullptr : &held->second;
}

absl::StatusOr<const WorkerNode::Held*> WorkerNode::ready_for(const OpenOrder& order,
                                                              const NodeShard& shard) const {
  const Held* held = held_for(order.plan);
  if (held == nullptr || !host_.holds(hosted(held->model.facts.hash), shard)) {
    return FailedPrecondition(
        "worker '{}' holds no shard of this plan: it was restarted, or prepared for another", options_.name);
  }
  RETURN_IF_ERROR(check_owner(held->model.facts.hash, order.giver));
  // Another coordinator may have had it load another fine-tune meanwhile, whose shard looks the same.
  if (held->ordered_by != order.giver.id) {
    return FailedPrecondition("worker '{}' was prepared for another coordinator meanwhile", options_.name);
  }
  RETURN_IF_ERROR(check_order(held->model, order.plan, shard, order.limits));
  return held;
}

absl::StatusOr<std::unique_ptr<Transport>> WorkerNode::transport_for(const OpenOrder& order,
                                                                     const HostedNode& node) {
  if (auto dialled = dialled_.extract(node.model_hash); !dialled.empty() &&
                                                        dialled.mapped().session == order.session &&
                                                        dialled.mapped().transport != nullptr) {
    return std::move(dialled.mapped().transport);
  }
  auto transport =
      endpoint_->open_session(WireSession(order.plan, order.node, order.session, *host_.model(node)));
  RETURN_IF_ERROR(named(transport.status()));
  return transport;
}

absl::Status WorkerNode::dial(const OpenOrder& order) {
  RETURN_IF_ERROR(check_dials(order.plan, order.node));
  const Clock::time_point last = Clock::now() + kTurnMax + std::chrono::milliseconds(kLinksAheadMs);
  const NodeShard shard = ShardOf(order.plan, order.node);
  std::unique_lock work(work_, kTurnMax);
  if (!work.owns_lock()) return busy();
  ASSIGN_OR_RETURN(const Held* const held, ready_for(order, shard));
  const HostedNode node = hosted(held->model.facts.hash);
  ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport, transport_for(order, node));
  dialled_.insert_or_assign(node.model_hash, Dialled{order.session, nullptr});
  // A peer may have to be waited for: other calls need not wait with this one.
  work.unlock();
  RETURN_IF_ERROR(named(transport->connect(Deadline::after_ms(kLinksAheadMs))));
  if (!work.try_lock_until(last)) return busy();
  RETURN_IF_ERROR(ready_for(order, shard).status());
  const auto dialled = dialled_.find(node.model_hash);
  if (dialled == dialled_.end() || dialled->second.session != order.session) {
    return Unavailable(
        "worker '{}': session {:016x} was closed while its links were opened, or another was asked for",
        options_.name, order.session);
  }
  dialled->second.transport = std::move(transport);
  return absl::OkStatus();
}

absl::StatusOr<OpenAnswer> WorkerNode::open(const OpenOrder& order) {
  RETURN_IF_ERROR(check_dials(order.plan, order.node));
  for (const OpenOrder::Source& source : order.sources) RETURN_IF_ERROR(check_dial(source.address));
  for (const OpenOrder::Follow& follow : order.follows) RETURN_IF_ERROR(check_dial(follow.address));
  const std::unique_lock work(work_, kTurnMax);
  if (!work.owns_lock()) return busy();
  // What is refused leaves the sessions that run alone.
  const NodeShard shard = ShardOf(order.plan, order.node);
  ASSIGN_OR_RETURN(const Held* const held, ready_for(order, shard));
  const HostedNode node = hosted(held->model.facts.hash);
  NodeHost::SessionSetup setup = SetupOf(order, node.model_hash, options_.key);
  ASSIGN_OR_RETURN(setup.transport, transport_for(order, node));
  const bool takes_next = held->next == shard;
  const int64_t weight_bytes =
      takes_next ? ShardBytes(held->model.spec, held->model.footprint, shard, options_.expert_memory)
                 : held->weight_bytes;
  const int64_t cache_bytes = CacheBytes(held->model.facts, shard, order.plan.kv_dtype, order.limits);
  copies_wanted_[node.model_hash] = BytesMax(setup.follows);
  fit_copies(bytes_taken_but(node.model_hash) + weight_bytes + cache_bytes +
             (takes_next ? 0 : held->next_bytes));
  RETURN_IF_ERROR(named(host_.open(node, std::move(setup))));
  if (takes_next) take_next(node);
  note_cache(node.model_hash, cache_bytes);
  const absl::Status connected =
      host_.connect(node, Deadline::after(std::chrono::milliseconds(kLinksMs) + order.move_max));
  if (!connected.ok()) host_.close(order.session);
  RETURN_IF_ERROR(named(connected));
  note_owner(node.model_hash, order);
  LogInfo("session open: epoch {}, node {} of {}", order.plan.epoch, order.node, order.plan.nodes.size());
  NodeHost::KeptPart part = host_.kept_part(node);
  return OpenAnswer{.keeps_cache = part.keeps, .missing = std::move(part.missing)};
}

absl::Status WorkerNode::follow(const FollowOrder& order) {
  std::vector<FollowedNode> follows;
  for (const OpenOrder::Follow& follow : order.follows) {
    RETURN_IF_ERROR(check_dial(follow.address));
    follows.push_back({follow.name, follow.bytes_max,
                       FollowCopies(RemoteCache{follow.name, follow.address, options_.key, order.model_hash},
                                    order.session)});
  }
  const int64_t bytes = BytesMax(follows);
  const std::unique_lock work(work_, kTurnMax);
  if (!work.owns_lock()) return busy();
  RETURN_IF_ERROR(named(host_.follow(hosted(order.model_hash), order.session, std::move(follows))));
  int64_t& wanted = copies_wanted_[order.model_hash];
  wanted += std::min(bytes, std::numeric_limits<int64_t>::max() - wanted);
  fit_copies(bytes_taken());
  return absl::OkStatus();
}

void WorkerNode::note_cache(const std::string& model_hash, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  held_.find(model_hash)->second.cache_bytes = bytes;
}

void WorkerNode::take_next(const HostedNode& node) {
  const std::lock_guard lock(mutex_);
  Held& held = held_.find(node.model_hash)->second;
  held.samples = std::move(held.next_samples);
  held.weight_bytes = host_.model(node)->bytes();
  held.next.reset();
  held.next_bytes = 0;
}

void WorkerNode::note_owner(const std::string& model_hash, const OpenOrder& order) {
  const PlanNode& coordinator = order.plan.node(Plan::kCoordinator);
  const std::lock_guard lock(mutex_);
  Held& held = held_.find(model_hash)->second;
  held.owner = order.giver.id;
  held.owner_name = fmt::format("'{}' at {}", coordinator.name, coordinator.address);
  held.since = UnixSeconds();
}

std::vector<PeerResult> WorkerNode::check_peers(const PeerCheck& check) {
  std::vector<PeerResult> refused(check.peers.size());
  bool any = false;
  for (size_t i = 0; i < check.peers.size(); ++i) {
    refused[i].status = check_dial(check.peers[i].address);
    any = any || !refused[i].status.ok();
  }
  return any ? refused : ProbePeers(check, options_.key);
}

MachineReport WorkerNode::examine(const std::vector<std::string>& model_names) {
  MachineReport report = options_.machine ? options_.machine() : MachineReport();
  for (const std::string& name : model_names) {
    const absl::StatusOr<std::string> folder = FindModel(options_.model_roots, name);
    const auto model = folder.ok() ? OpenModel(*folder) : folder.status();
    report.model_error = Message(model.status());
    report.fetches_model =
        weights_ != nullptr && (absl::IsNotFound(folder.status()) || options_.model_roots.empty());
    if (!folder.ok()) continue;
    if (model.ok()) report.model_hash = model->facts.hash;
    break;
  }
  return report;
}

absl::Status WorkerNode::give_cached(const std::string& model_hash, const CacheRequest& request,
                                     Deadline deadline, TakeImages take) {
  return named(host_.give_cached(hosted(model_hash), request, deadline, take));
}

absl::Status WorkerNode::give_copies(const std::string& model_hash, uint64_t session, uint64_t after,
                                     Deadline deadline, TakeCopies take) {
  return named(host_.give_copies(hosted(model_hash), session, after, deadline, take));
}

void WorkerNode::close(uint64_t session) {
  const std::lock_guard work(work_);
  std::erase_if(dialled_, [session](const auto& entry) { return entry.second.session == session; });
  host_.close(session);
}

}  // namespace shoal
