#include "cluster/node_host.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "exec/model_facts.h"

namespace shoal {
namespace {

bool AllOf(Range layers, absl::FunctionRef<bool(LayerId)> has) {
  for (int64_t i = layers.begin; i < layers.end; ++i) {
    if (!has(LayerId{static_cast<int32_t>(i)})) return false;
  }
  return true;
}

/// E and K of each layer.
std::vector<ExpertUse::Shape> ExpertShapes(const ModelSpec& spec) {
  std::vector<ExpertUse::Shape> shapes;
  for (const LayerSpec& layer : spec.layers) {
    ExpertUse::Shape& shape = shapes.emplace_back();
    if (const MoeSpec* moe = MoeOf(layer)) shape = {static_cast<int32_t>(moe->experts.size()), moe->top_k};
  }
  return shapes;
}

bool HasAll(std::span<const LayerId> some, Range layers) {
  return AllOf(layers, [&](LayerId layer) { return std::ranges::count(some, layer) > 0; });
}

}  // namespace

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
  std::vector<Ended> ended;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, node] : nodes_) {
      if (node->session == nullptr || !which(name, *node)) continue;
      ended.push_back({node, std::move(node->session), std::exchange(node->followers, {}),
                       std::exchange(node->session_id, 0), std::exchange(node->contents, {})});
      node->kept_part = {};
    }
  }
  for (Ended& one : ended) keep_cache(std::move(one));
}

void NodeHost::keep_cache(Ended ended) {
  ended.session->stop();
  ended.followers.clear();
  auto kept = std::make_shared<KeptCache>();
  kept->contents = std::move(ended.contents);
  kept->cache = ended.session->release_cache();
  // Of a session of which nobody knows what it began with, nobody knows what it left.
  if (ended.session->has_begun_steps() && !kept->contents.sessions.empty()) {
    kept->contents.sessions = {ended.session_id};
  }
  ended.session.reset();
  if (kept->cache == nullptr) return;
  const std::lock_guard lock(mutex_);
  // Another session may have begun meanwhile: one cache is enough.
  if (ended.node->session == nullptr) ended.node->kept = std::move(kept);
}

void NodeHost::trim_kept(const HostedNode& node, Range layers, const StepLimits& limits) {
  const std::shared_ptr<Node> hosted = find(node);
  if (hosted == nullptr) return;
  std::shared_ptr<KeptCache> kept;
  {
    const std::lock_guard lock(mutex_);
    kept = std::move(hosted->kept);
  }
  if (kept == nullptr) return;
  bool useful = false;
  {
    const std::lock_guard use(kept->use);
    // Of layers that it lacks a buddy may have copies; those that leave may be for others.
    useful = !AllOf(layers, [&](LayerId layer) { return !kept->cache->has(layer); });
    if (useful) kept->cache->trim(limits.blocks, limits.state_slots);
  }
  const std::lock_guard lock(mutex_);
  if (useful && hosted->session == nullptr) hosted->kept = std::move(kept);
}

absl::Status NodeHost::give_cached(const HostedNode& node, const CacheRequest& request, Deadline deadline,
                                   TakeImages take) const {
  if (!request.copies_of.empty()) {
    const std::shared_ptr<Node> keeper = find(node);
    if (keeper != nullptr) return keeper->shelf->give(request, deadline, take);
    return FailedPrecondition("node '{}' keeps no copies any more", node.name);
  }
  const std::shared_ptr<Node> hosted = find(node);
  std::shared_ptr<KeptCache> from;
  if (hosted != nullptr) {
    const std::lock_guard lock(mutex_);
    for (const auto& one : {hosted->kept, hosted->leaving}) {
      if (one != nullptr && one->is_from(request.session) && one->contents.identity == request.identity)
        from = one;
    }
  }
  if (from == nullptr) {
    return FailedPrecondition("node '{}' has no cache of session {} any more", node.name, request.session);
  }
  std::vector<std::byte> images;
  for (const CachedPlace& one : request.places) {
    if (deadline.expired()) return DeadlineExceeded("node '{}' did not give its cache in time", node.name);
    for (int64_t layer = request.layers.begin; layer < request.layers.end; ++layer) {
      {
        const std::lock_guard use(from->use);
        RETURN_IF_ERROR(from->cache->export_image(LayerId{static_cast<int32_t>(layer)}, one.place,
                                                  {request.identity, one.key, one.position}, images));
      }
      if (images.size() < kImagesAtOnceBytes) continue;
      RETURN_IF_ERROR(take(images));
      images.clear();
    }
  }
  return images.empty() ? absl::OkStatus() : take(images);
}

absl::Status NodeHost::give_copies(const HostedNode& node, uint64_t session, uint64_t after,
                                   Deadline deadline, TakeCopies take) const {
  std::shared_ptr<CopyOutbox> outbox;
  if (const std::shared_ptr<Node> hosted = find(node); hosted != nullptr) {
    const std::lock_guard lock(mutex_);
    if (hosted->session != nullptr && hosted->session_id == session) outbox = hosted->session->outbox();
  }
  if (outbox == nullptr) {
    return FailedPrecondition("node '{}' copies nothing for a buddy in session {}", node.name, session);
  }
  ASSIGN_OR_RETURN(
      const CacheCopies copies,
      outbox->next(after, kCopiesAtOnceBytes, Deadline::min(deadline, Deadline::after(kCopiesWait))));
  for (const auto& copy : copies) {
    // Whole images, as many as a message may hold.
    for (std::span<const std::byte> left = copy->images; !left.empty();) {
      size_t piece = 0;
      while (piece < left.size() && piece < kImagesAtOnceBytes) {
        ASSIGN_OR_RETURN(const ImageView view, ParseImage(left.subspan(piece)));
        piece += static_cast<size_t>(view.bytes);
      }
      RETURN_IF_ERROR(take({copy->number, copy->place, piece == left.size(), left.first(piece)}));
      left = left.subspan(piece);
    }
  }
  return absl::OkStatus();
}

int64_t NodeHost::copies_bytes(const HostedNode& node) const {
  const std::shared_ptr<Node> hosted = find(node);
  return hosted == nullptr ? 0 : hosted->shelf->stats().bytes;
}

void NodeHost::cap_copies(const HostedNode& node, int64_t bytes_max) {
  if (const std::shared_ptr<Node> hosted = find(node)) hosted->shelf->cap(bytes_max);
}

NodeHost::KeptPart NodeHost::kept_part(const HostedNode& node) const {
  const std::shared_ptr<Node> hosted = find(node);
  const std::lock_guard lock(mutex_);
  return hosted == nullptr || hosted->session == nullptr ? KeptPart() : hosted->kept_part;
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
                                   {.cache = options_.packed_cache,
                                    .expert_memory = options_.expert_memory,
                                    .beside_until = [this, node] {
                                      const std::lock_guard lock(mutex_);
                                      return to_load_.contains(node);
                                    }}));
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
  (void)to_load_.extract(node);  // One of them.
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
  ASSIGN_OR_RETURN(
      std::unique_ptr<NodeModel> model,
      NodeModel::Load(std::move(weights), std::move(shard), *hosted->backend, progress,
                      {.cache = options_.packed_cache, .expert_memory = options_.expert_memory}));
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
  return create_session(hosted, std::move(setup));
}

absl::Status NodeHost::create_session(const std::shared_ptr<Node>& node, SessionSetup setup) {
  Contents contents{.identity = CachesKeyOf(setup.plan, *node->model), .sessions = {}};
  std::shared_ptr<KeptCache> kept;
  std::shared_ptr<KeptCache> left;
  bool new_number = true;  // One that was used before says nothing of what is in the cache.
  {
    const std::lock_guard lock(mutex_);
    left = std::move(node->leaving);
    kept = std::move(node->kept);
    new_number = kept == nullptr || !kept->is_from(setup.session);
    if (kept != nullptr && (setup.keep_from == 0 || !kept->is_from(setup.keep_from) ||
                            kept->contents.identity != contents.identity)) {
      left = std::move(kept);
    }
    if (setup.gives) node->leaving = kept;  // Others may ask for it from now on.
  }
  left.reset();
  ASSIGN_OR_RETURN(std::unique_ptr<NodeSession> session, NodeSession::Create(options_of(node, setup)));
  std::vector<LayerId> held;
  if (kept != nullptr) {
    const std::lock_guard use(kept->use);
    held = session->adopt_cache(*kept->cache);
  }
  KeptPart part{.keeps = HasAll(held, node->model->shard().layers), .missing = {}};
  if (part.keeps && kept != nullptr) contents.sessions = kept->contents.sessions;
  if (!part.keeps && !setup.sources.empty()) {
    const CacheRequest all{setup.keep_from, contents.identity, {}, setup.places};
    part = take_in(*session, *node, setup, all, held);
  }
  kept.reset();
  if (new_number) {
    contents.sessions.push_back(setup.session);
  } else {
    contents.sessions.clear();
  }
  RETURN_IF_ERROR(session->start());
  node->shelf->begin(setup.giver);
  const std::lock_guard lock(mutex_);
  node->session = std::move(session);
  node->session_id = setup.session;
  node->contents = std::move(contents);
  node->kept_part = std::move(part);
  follow(*node, std::move(setup.follows));
  return absl::OkStatus();
}

// What the shelf has stays until the first work, of other nodes and beyond lower limits, too: those that run the layers now
// may be about to ask. Only what needs the room takes it before (CopyShelf::cap).
void NodeHost::follow(Node& node, std::vector<FollowedNode> follows) {
  std::vector<std::string> all;
  for (const auto& follower : node.followers) all.push_back(follower->name());
  for (const FollowedNode& one : follows) all.push_back(one.name);
  for (FollowedNode& one : follows) {
    node.shelf->limit(one.name, one.bytes_max);
    if (one.bytes_max == 0) continue;
    try {
      node.followers.push_back(std::make_unique<CopyFollower>(std::move(one), node.shelf, all));
    } catch (const std::system_error& error) {  // Clients hold all that the system grants.
      LogWarning("kv buddy: no thread to fetch copies with: {}", error.what());
    }
  }
}

absl::Status NodeHost::follow(const HostedNode& node, uint64_t session, std::vector<FollowedNode> follows) {
  const std::shared_ptr<Node> hosted = find(node);
  const std::lock_guard lock(mutex_);
  if (hosted == nullptr || hosted->session == nullptr || hosted->session_id != session)
    return FailedPrecondition("node '{}' has no session {}", node.name, session);
  follow(*hosted, std::move(follows));
  return absl::OkStatus();
}

std::shared_ptr<ExpertUse> NodeHost::use_of(Node& node) {
  const Range layers = node.model->shard().layers;
  const std::vector<ExpertUse::Shape> shapes = ExpertShapes(node.model->spec());
  const std::lock_guard lock(mutex_);
  return node.uses.next(layers, shapes);
}

std::vector<LayerUseCount> NodeHost::take_expert_use(const HostedNode& node) {
  std::vector<std::shared_ptr<ExpertUse>> uses;
  if (const std::shared_ptr<Node> hosted = find(node)) {
    const std::lock_guard lock(mutex_);
    uses = hosted->uses.counted();
  }
  std::vector<LayerUseCount> counts;
  for (const auto& use : uses) {
    for (LayerUseCount& count : use->take()) counts.push_back(std::move(count));
  }
  return counts;
}

NodeSession::Options NodeHost::options_of(const std::shared_ptr<Node>& node, SessionSetup& setup) {
  NodeSession::Options options;
  options.executor = node->executor.get();
  options.log_name = setup.plan.node(setup.node).name;
  options.plan = std::move(setup.plan);
  options.self = setup.node;
  options.model = node->model.get();
  options.profile = node->profile.get();
  options.hook = options_.hook;
  options.kv_disk = options_.kv_disk;
  options.use = use_of(*node);
  options.transport = std::move(setup.transport);
  options.limits = setup.limits;
  options.limits.vocabulary = node->model->spec().vocabulary;
  options.expert_timeout = setup.expert_timeout;
  options.sink = setup.sink;
  options.copied = setup.copied;
  std::vector<std::string> followed;
  for (const FollowedNode& one : setup.follows) followed.push_back(one.name);
  // Work comes when all nodes have their sessions: whoever is to have other layers has them.
  options.on_first_work = [this, weak = std::weak_ptr<Node>(node), followed = std::move(followed)] {
    std::shared_ptr<KeptCache> left;
    const std::shared_ptr<Node> here = weak.lock();
    if (here == nullptr) return;
    here->shelf->keep_only(followed);
    const std::lock_guard lock(mutex_);
    left.swap(here->leaving);
  };
  return options;
}

NodeHost::KeptPart NodeHost::take_in(NodeSession& session, const Node& node, const SessionSetup& setup,
                                     const CacheRequest& all, std::span<const LayerId> held) {
  const NodeModel& model = *node.model;
  const Deadline deadline = Deadline::after(setup.move_max);
  const int64_t begun_ns = NowNs();
  std::vector<Range> lacking;
  for (const CacheSource& source : setup.sources) lacking.push_back(source.layers);
  const auto is_or_comes = [&](LayerId layer) {
    return std::ranges::count(held, layer) > 0 ||
           std::ranges::any_of(lacking, [&](const Range& some) { return some.contains(layer.value); });
  };
  if (!AllOf(model.shard().layers, is_or_comes)) return {};
  CacheIntake intake(session, all, lacking, [&model](LayerId layer) {
    return CacheShapeOf(model.spec().layers[static_cast<size_t>(layer.value)].mixer);
  });
  for (const CacheSource& source : setup.sources) {
    CacheRequest request = all;
    request.layers = source.layers;
    request.copies_of = source.copies_of;
    if (!request.copies_of.empty()) request.session = setup.giver;
    const auto take = [&](std::span<const std::byte> images) { return intake.take(images); };
    const absl::Status given =
        source.give ? source.give(request, deadline, take) : node.shelf->give(request, deadline, take);
    if (given.ok()) continue;
    LogWarning("not all of the cache of layers [{}, {}) came, and what lacks is computed again: {}",
               source.layers.begin, source.layers.end, Message(given));
  }
  KeptPart part{.keeps = true, .missing = intake.missing()};
  const auto wanted = std::ssize(all.places);
  LogInfo("took in {} of the cache from {} nodes in {} ms: {} of {} blocks and states",
          FormatBytes(intake.bytes()), setup.sources.size(), (NowNs() - begun_ns) / 1'000'000,
          wanted - std::ssize(part.missing), wanted);
  if (std::ssize(part.missing) == wanted) return {};
  return part;
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
      report.expert_tier = node->model->held().expert_tier();
    }
    if (node->session != nullptr) {
      report.stats = node->session->stats();
      report.session = report.stats.running ? node->session_id : 0;
      for (const auto& [peer, link] : node->session->transport().stats().peers)
        report.links[node->session->plan().node(peer).name] = link;
      if (node->session->outbox() != nullptr) report.copied = node->session->outbox()->stats();
    }
    report.copies = node->shelf->stats();
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
