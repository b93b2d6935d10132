// What a worker makes of an order to load: the model, what of it comes from others, and room for it in memory.
#include <fmt/chrono.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"
#include "cluster/worker_node.h"
#include "exec/node_model.h"
#include "numeric/cache_shape.h"

namespace shoal {

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

int64_t WorkerNode::bytes_held_but(const std::string& model_hash) const {
  int64_t bytes = 0;
  for (const auto& [hash, held] : held_) {
    if (hash != model_hash) bytes += held.weight_bytes + held.cache_bytes + held.next_bytes;
  }
  return bytes;
}

int64_t WorkerNode::bytes_taken_but(const std::string& model_hash) const {
  return beside_bytes_ + bytes_held_but(model_hash);
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
      // What is loaded beside a session of the same model ends for this.
      const int64_t beside = beside_of_ == model_hash ? 0 : beside_bytes_.load();
      const int64_t taken = bytes + beside + bytes_held_but(model_hash);
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
  // What the model has beside already goes for it.
  const int64_t taken = bytes_taken() - held_.find(model_hash)->second.next_bytes + more;
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
    beside_of_ = order.model_hash;
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
  if (!work.owns_lock()) {
    host_.drop_prepared(
        node);  // Nobody would count its bytes. What a session has taken over meanwhile stays.
    return busy();
  }
  const std::lock_guard lock(mutex_);
  const auto held = held_.find(order.model_hash);
  if (held == held_.end() || !host_.holds(node, shard)) {
    host_.drop_prepared(node);
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
            (void)overtaking_.extract(model_hash);  // One of them.
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

}  // namespace shoal
