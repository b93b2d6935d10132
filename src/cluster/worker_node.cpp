#include "cluster/worker_node.h"

#include <fmt/chrono.h>

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
#include "exec/shard_overlap.h"
#include "kv/block_pool.h"

namespace shoal {
namespace {

constexpr int64_t kConnectMs = 5000;
/// How long a call waits for another to end. With what open() may take it is less than a coordinator waits.
constexpr Duration kTurnMax = std::chrono::seconds(2);

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

absl::StatusOr<OpenedModel> WorkerNode::find_model(const PrepareOrder& order) const {
  absl::Status not_found = NotFound("the coordinator named no model");
  for (const std::string& name : order.model_names) {
    const absl::StatusOr<std::string> folder = FindModel(options_.model_roots, name);
    if (!folder.ok()) {
      // What is said of the last name, the plainest one, is the most use to a person.
      not_found = folder.status();
      continue;
    }
    ASSIGN_OR_RETURN(OpenedModel model, OpenModel(*folder));
    if (model.checkpoint->hash() != order.model_hash) {
      return FailedPrecondition(
          "worker '{}': {} is another model than the coordinator's '{}': hash of config and tensors is {}, "
          "expected {}. "
          "Copy the coordinator's folder here, or name the model differently",
          options_.name, *folder, name, model.facts.hash, order.model_hash);
    }
    return model;
  }
  return named(not_found);
}

absl::StatusOr<std::vector<WeightSample>> WorkerNode::check_weights(const PrepareOrder& order,
                                                                    const OpenedModel& model,
                                                                    const NodeShard& shard) const {
  std::vector<WeightSample> samples = SampleShard(*model.weights, shard);
  const absl::Status same = CompareSamples(order.samples, samples);
  if (!same.ok()) {
    return Annotate(
        same, fmt::format("worker '{}': {} is another model than the coordinator's of the same config, such "
                          "as another fine-tune. Copy the coordinator's folder here",
                          options_.name, model.checkpoint->folder()));
  }
  return samples;
}

absl::Status WorkerNode::check_order(const OpenedModel& model, const Plan& plan, const NodeShard& shard,
                                     const StepLimits& limits) const {
  RETURN_IF_ERROR(named(Validate(plan, model.facts)));
  RETURN_IF_ERROR(named(CheckLimits(limits, model.spec)));
  if (options_.memory_bytes <= 0) return absl::OkStatus();
  const int64_t weights = ShardBytes(model.spec, model.footprint, shard, options_.expert_memory);
  const int64_t cache = CacheBytes(model.facts, shard, plan.kv_dtype, limits);
  if (weights <= options_.memory_bytes && cache <= options_.memory_bytes - weights) return absl::OkStatus();
  return ResourceExhausted(
      "worker '{}': its shard of the model takes {} and its share of the cache {} ({} KV positions, {} "
      "states), "
      "it may use {} (--memory){}",
      options_.name, FormatBytes(weights), FormatBytes(cache), int64_t{limits.blocks} * kBlockPositions,
      limits.state_slots, FormatBytes(options_.memory_bytes),
      model.facts.top_k == 0 ? "" : ". --expert-memory lets it keep part of its experts on its disk");
}

int64_t WorkerNode::bytes_taken_but(const std::string& model_hash) const {
  int64_t bytes = beside_bytes_;
  for (const auto& [hash, held] : held_) {
    if (hash != model_hash) bytes += held.weight_bytes + held.cache_bytes + held.next_bytes;
  }
  return bytes;
}

int64_t WorkerNode::bytes_taken() const { return bytes_taken_but(""); }

void WorkerNode::fit_copies(int64_t taken) {
  if (options_.memory_bytes <= 0) return;
  int64_t room = std::max<int64_t>(options_.memory_bytes - taken, 0);
  std::map<std::string, int64_t> kept;
  for (const auto& [hash, wanted] : copies_wanted_) {
    kept[hash] = std::min(host_.copies_bytes(hosted(hash)), room);
    room -= kept[hash];
  }
  for (const auto& [hash, wanted] : copies_wanted_) {
    const int64_t more = std::clamp<int64_t>(wanted - kept[hash], 0, room);
    room -= more;
    host_.cap_copies(hosted(hash), kept[hash] + more);
  }
}

bool WorkerNode::serves(const std::string& model_hash) const {
  return std::ranges::any_of(host_.report(), [&](const NodeHost::NodeReport& node) {
    return node.node.model_hash == model_hash && node.session != 0 && !node.stats.orphaned;
  });
}

// Two coordinators that take a worker from each other would both serve nobody.
absl::Status WorkerNode::check_owner(const std::string& model_hash, const OrderGiver& giver) const {
  const auto held = held_.find(model_hash);
  if (held == held_.end() || held->second.owner == giver.id || giver.take_over || !serves(model_hash)) {
    return absl::OkStatus();
  }
  return FailedPrecondition(
      "worker '{}' serves the coordinator {} since {:%Y-%m-%d %H:%M:%S} UTC. Stop that one, or start this "
      "one "
      "with --take-over",
      options_.name, held->second.owner_name, fmt::gmtime(static_cast<std::time_t>(held->second.since)));
}

void WorkerNode::make_room(const std::string& model_hash, int64_t bytes) {
  for (const bool also_serving : {false, true}) {
    for (auto other = held_.begin(); other != held_.end();) {
      int64_t taken = bytes;
      for (const auto& [hash, held] : held_) {
        if (hash != model_hash) taken += held.weight_bytes + held.cache_bytes + held.next_bytes;
      }
      const bool fits = options_.memory_bytes > 0 && taken <= options_.memory_bytes;
      const bool stays = other->first == model_hash || fits || (!also_serving && serves(other->first)) ||
                         (also_serving && options_.memory_bytes <= 0);
      if (stays) {
        ++other;
        continue;
      }
      LogInfo("dropped {}, to make room", other->second.model.checkpoint->folder());
      host_.drop(hosted(other->first));
      shelf_.drop(other->first);
      copies_wanted_.erase(other->first);
      const std::lock_guard lock(mutex_);
      other = held_.erase(other);
    }
  }
}

void WorkerNode::note_loading(int more) {
  const std::lock_guard lock(mutex_);
  loading_ += more;
}

absl::Status WorkerNode::check_fetch(const PrepareOrder& order, const absl::Status& not_found) const {
  // A folder that is another model, or damaged, is for a person to see.
  const bool lacks = absl::IsNotFound(not_found) || options_.model_roots.empty();
  if (lacks && weights_ != nullptr && !order.weights_content.empty()) return absl::OkStatus();
  if (!absl::IsNotFound(not_found)) return not_found;
  return NotFound(
      "{}. Its tensors can't be fetched: {}", Message(not_found),
      weights_ == nullptr ? "--weights-cache is off here" : "the coordinator has --no-send-weights");
}

absl::StatusOr<WorkerNode::Source> WorkerNode::fetch(const PrepareOrder& order, const NodeShard& shard,
                                                     const PrepareProgress& progress,
                                                     int64_t& fetched_bytes) {
  LogInfo("model '{}' is not here: its tensors are fetched from the coordinator at {}, and from peers",
          order.model_names.empty() ? order.model_hash : order.model_names.back(),
          order.plan.node(Plan::kCoordinator).address);
  int64_t to_load = 0;
  const auto check = [&](const OpenedModel& model) -> absl::Status {
    RETURN_IF_ERROR(check_order(model, order.plan, shard, order.limits));
    to_load = ShardBytes(model.spec, model.footprint, shard, options_.expert_memory);
    return absl::OkStatus();
  };
  absl::StatusOr<WorkerWeights::Fetched> fetched = weights_->fetch(
      order, shard, check,
      [&](int64_t done, int64_t total) {
        fetched_bytes = total;
        if (progress) progress(done, total + to_load);
      },
      [&] {
        const std::lock_guard lock(mutex_);
        return order.beside && overtaking_.contains(order.model_hash);
      });
  RETURN_IF_ERROR(named(fetched.status()));
  return Source{std::move(fetched->model), std::move(fetched->files)};
}

absl::StatusOr<int64_t> WorkerNode::check_beside(const std::string& model_hash, const OpenedModel& model,
                                                 const NodeShard& shard) const {
  const NodeShard& now = host_.model(hosted(model_hash))->shard();
  const int64_t more = BytesBeside(model.spec, model.footprint, now, shard, options_.expert_memory);
  int64_t taken = more;
  for (const auto& [hash, held] : held_) {
    taken += held.weight_bytes + held.cache_bytes + (hash == model_hash ? 0 : held.next_bytes);
  }
  if (options_.memory_bytes <= 0 || taken <= options_.memory_bytes) return more;
  return ResourceExhausted(
      "worker '{}': beside what it holds for the session, {} more of weights do not fit: {} in all, it may "
      "use {} "
      "(--memory)",
      options_.name, FormatBytes(more), FormatBytes(taken), FormatBytes(options_.memory_bytes));
}

absl::StatusOr<WorkerNode::Source> WorkerNode::find_or_fetch(const PrepareOrder& order,
                                                             const NodeShard& shard,
                                                             const PrepareProgress& progress,
                                                             int64_t& fetched_bytes) {
  absl::StatusOr<OpenedModel> model = find_model(order);
  if (model.ok()) return Source{*std::move(model), nullptr};
  RETURN_IF_ERROR(check_fetch(order, model.status()));
  return fetch(order, shard, progress, fetched_bytes);
}

absl::StatusOr<int64_t> WorkerNode::prepare_beside(const PrepareOrder& order,
                                                   const PrepareProgress& progress) {
  NodeShard shard = ShardOf(order.plan, order.node);
  int64_t fetched_bytes = 0;
  ASSIGN_OR_RETURN(Source source, find_or_fetch(order, shard, progress, fetched_bytes));
  const OpenedModel& model = source.model;
  ASSIGN_OR_RETURN(std::vector<WeightSample> samples, check_weights(order, model, shard));
  const HostedNode node = hosted(order.model_hash);
  int64_t more = 0;
  {
    const std::unique_lock work(work_, kTurnMax);
    if (!work.owns_lock()) return busy();
    RETURN_IF_ERROR(check_order(model, order.plan, shard, order.limits));
    const auto held = held_.find(order.model_hash);
    if (held == held_.end()) return Unavailable("worker '{}' holds nothing any more", options_.name);
    ASSIGN_OR_RETURN(more, check_beside(order.model_hash, model, shard));
    beside_bytes_ = more;
    fit_copies(bytes_taken() - held->second.next_bytes);  // Which is dropped for it.
  }
  const std::shared_ptr<const void> beside(nullptr, [this](std::nullptr_t) { beside_bytes_ = 0; });
  LogInfo("loading beside the session: {}, {}", model.checkpoint->folder(), shard.summary());
  const auto loading = [&](int64_t done, int64_t total) {
    if (progress) progress(fetched_bytes + done, fetched_bytes + total);
  };
  const absl::Status loaded = host_.prepare(node, model.weights, shard, loading);
  const std::unique_lock work(work_, kTurnMax);
  if (!loaded.ok() && work.owns_lock()) {
    beside_bytes_ = 0;
    fit_copies(bytes_taken());
  }
  RETURN_IF_ERROR(named(loaded));
  if (!work.owns_lock()) return busy();
  const std::lock_guard lock(mutex_);
  const auto held = held_.find(order.model_hash);
  if (held == held_.end() || !host_.holds(node, shard)) {
    return Unavailable("worker '{}' dropped the model meanwhile", options_.name);
  }
  // Peers that lack what was fetched now may have it from here.
  if (source.files != nullptr) shelf_.put(model.checkpoint, std::move(source.files));
  held->second.next = std::move(shard);
  held->second.next_samples = std::move(samples);
  held->second.next_bytes = more;
  beside_bytes_ = 0;
  held->second.ordered_by = order.giver.id;
  return held->second.weight_bytes + more;
}

absl::StatusOr<int64_t> WorkerNode::prepare(const PrepareOrder& order, const PrepareProgress& progress) {
  if (options_.key.tls != nullptr)
    RETURN_IF_ERROR(named(options_.key.tls->check_name(order.plan.node(order.node).name)));
  RETURN_IF_ERROR(check_dials(order.plan, order.node));  // Weights may come from any of them.
  if (order.beside) {
    const std::unique_lock preparing(preparing_, kTurnMax);
    std::unique_lock work(work_, kTurnMax);
    if (!preparing.owns_lock() || !work.owns_lock()) return busy();
    RETURN_IF_ERROR(check_owner(order.model_hash, order.giver));
    const auto held = held_.find(order.model_hash);
    const bool own_session =
        held != held_.end() && held->second.owner == order.giver.id && serves(order.model_hash);
    const bool other_shard =
        own_session && !host_.holds(hosted(order.model_hash), ShardOf(order.plan, order.node));
    work.unlock();
    if (other_shard) return prepare_beside(order, progress);
  }
  return prepare_now(order, progress);
}

std::shared_ptr<const void> WorkerNode::overtake(const std::string& model_hash) {
  {
    const std::lock_guard lock(mutex_);
    overtaking_.insert(model_hash);
  }
  if (weights_ != nullptr) weights_->interrupt(model_hash);
  return {nullptr, [this, model_hash](std::nullptr_t) {
            const std::lock_guard lock(mutex_);
            overtaking_.extract(model_hash);  // One of them.
          }};
}

absl::StatusOr<int64_t> WorkerNode::prepare_now(const PrepareOrder& order, const PrepareProgress& progress) {
  std::unique_lock work(work_, kTurnMax);
  if (!work.owns_lock()) return busy();
  RETURN_IF_ERROR(check_owner(order.model_hash, order.giver));
  const std::shared_ptr<const void> overtaking = order.beside ? nullptr : overtake(order.model_hash);
  NodeShard shard = ShardOf(order.plan, order.node);
  const auto held = held_.find(order.model_hash);
  if (held != held_.end() && host_.holds(hosted(order.model_hash), shard) &&
      CompareSamples(order.samples,
                     held->second.next == shard ? held->second.next_samples : held->second.samples)
          .ok()) {
    RETURN_IF_ERROR(check_order(held->second.model, order.plan, shard, order.limits));
    const std::lock_guard lock(mutex_);
    held->second.ordered_by = order.giver.id;
    return held->second.weight_bytes;
  }
  absl::StatusOr<OpenedModel> model = find_model(order);
  if (model.ok()) {
    RETURN_IF_ERROR(check_order(*model, order.plan, shard, order.limits));
    return load(order, {*std::move(model), nullptr}, std::move(shard), progress);
  }
  RETURN_IF_ERROR(check_fetch(order, model.status()));
  work.unlock();  // It may take hours, in which sessions of other models come and go.
  int64_t fetched_bytes = 0;
  note_loading(1);
  absl::StatusOr<Source> source = fetch(order, shard, progress, fetched_bytes);
  note_loading(-1);
  RETURN_IF_ERROR(source.status());
  if (!work.try_lock_for(kTurnMax)) return busy();
  RETURN_IF_ERROR(check_owner(order.model_hash, order.giver));
  return load(order, *std::move(source), std::move(shard), [&](int64_t done, int64_t total) {
    if (progress) progress(fetched_bytes + done, fetched_bytes + total);
  });
}

absl::StatusOr<int64_t> WorkerNode::load(const PrepareOrder& order, Source source, NodeShard shard,
                                         const PrepareProgress& progress) {
  OpenedModel& model = source.model;
  ASSIGN_OR_RETURN(std::vector<WeightSample> samples, check_weights(order, model, shard));
  Held held{.samples = std::move(samples),
            .weight_bytes = ShardBytes(model.spec, model.footprint, shard, options_.expert_memory),
            .cache_bytes = CacheBytes(model.facts, shard, order.plan.kv_dtype, order.limits),
            .ordered_by = order.giver.id};
  make_room(order.model_hash, held.weight_bytes + held.cache_bytes);
  fit_copies(bytes_taken_but(order.model_hash) + held.weight_bytes + held.cache_bytes);
  {
    const std::lock_guard lock(mutex_);
    held_.erase(order.model_hash);  // Its session ends and its weights go, in load().
    ++loading_;
  }
  shelf_.drop(order.model_hash);
  LogInfo("loading {}: layers [{}, {})", model.checkpoint->folder(), shard.layers.begin, shard.layers.end);
  // What it holds under this hash are other weights, such as those of another fine-tune: the host would keep them.
  const HostedNode node = hosted(order.model_hash);
  if (host_.holds(node, shard)) host_.drop(node);
  host_.close(node);
  host_.trim_kept(node, shard.layers, order.limits);
  const absl::Status loaded = host_.load(node, model.weights, std::move(shard), progress);
  if (!loaded.ok()) fit_copies(bytes_taken());
  const std::lock_guard lock(mutex_);
  --loading_;
  RETURN_IF_ERROR(named(loaded));
  shelf_.put(model.checkpoint, std::move(source.files));
  held.model = std::move(model);
  held.weight_bytes = host_.model(node)->bytes();
  const int64_t bytes = held.weight_bytes;
  held_.insert_or_assign(order.model_hash, std::move(held));
  return bytes;
}

const WorkerNode::Held* WorkerNode::held_for(const Plan& plan) const {
  // A hand-written plan does not say its model.
  const auto held =
      plan.model_hash.empty() && held_.size() == 1 ? held_.begin() : held_.find(plan.model_hash);
  return held == held_.end() ? nullptr : &held->second;
}

absl::StatusOr<OpenAnswer> WorkerNode::open(const OpenOrder& order) {
  RETURN_IF_ERROR(check_dials(order.plan, order.node));
  for (const OpenOrder::Source& source : order.sources) RETURN_IF_ERROR(check_dial(source.address));
  for (const OpenOrder::Follow& follow : order.follows) RETURN_IF_ERROR(check_dial(follow.address));
  const std::unique_lock work(work_, kTurnMax);
  if (!work.owns_lock()) return busy();
  // What is refused leaves the sessions that run alone.
  const Held* held = held_for(order.plan);
  const NodeShard shard = ShardOf(order.plan, order.node);
  if (held == nullptr || !host_.holds(hosted(held->model.facts.hash), shard)) {
    return FailedPrecondition(
        "worker '{}' holds no shard of this plan: it was restarted, or prepared for another", options_.name);
  }
  const HostedNode node = hosted(held->model.facts.hash);
  RETURN_IF_ERROR(check_owner(node.model_hash, order.giver));
  // Another coordinator may have had it load another fine-tune meanwhile, whose shard looks the same.
  if (held->ordered_by != order.giver.id) {
    return FailedPrecondition("worker '{}' was prepared for another coordinator meanwhile", options_.name);
  }
  RETURN_IF_ERROR(check_order(held->model, order.plan, shard, order.limits));
  auto transport =
      endpoint_->open_session(WireSession(order.plan, order.node, order.session, *host_.model(node)));
  RETURN_IF_ERROR(named(transport.status()));
  NodeHost::SessionSetup setup = SetupOf(order, node.model_hash, options_.key);
  setup.transport = *std::move(transport);
  const bool takes_next = held->next == shard;
  const int64_t weight_bytes =
      takes_next ? ShardBytes(held->model.spec, held->model.footprint, shard, options_.expert_memory)
                 : held->weight_bytes;
  const int64_t cache_bytes = CacheBytes(held->model.facts, shard, order.plan.kv_dtype, order.limits);
  copies_wanted_[node.model_hash] = BytesMax(setup.follows);
  fit_copies(bytes_taken_but(node.model_hash) + weight_bytes + cache_bytes + (takes_next ? 0 : held->next_bytes));
  RETURN_IF_ERROR(named(host_.open(node, std::move(setup))));
  if (takes_next) take_next(node);
  note_cache(node.model_hash, cache_bytes);
  const absl::Status connected =
      host_.connect(node, Deadline::after(std::chrono::milliseconds(kConnectMs) + order.move_max));
  if (!connected.ok()) host_.close(order.session);
  RETURN_IF_ERROR(named(connected));
  note_owner(node.model_hash, order);
  LogInfo("session open: epoch {}, node {} of {}", order.plan.epoch, order.node, order.plan.nodes.size());
  NodeHost::KeptPart part = host_.kept_part(node);
  return OpenAnswer{.keeps_cache = part.keeps, .missing = std::move(part.missing)};
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
  host_.close(session);
}

}  // namespace shoal
