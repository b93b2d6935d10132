#include "cluster/worker_node.h"

#include <utility>

#include "base/exposure.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"
#include "kv/block_pool.h"
#include "numeric/version.h"

namespace shoal {
namespace {

constexpr int64_t kConnectMs = 5000;

}  // namespace

WorkerNode::WorkerNode(Options options)
    : options_(std::move(options)), pool_(options_.threads, options_.cpus) {}

WorkerNode::~WorkerNode() {
  endpoint_.reset();  // Ends calls first: nothing then touches what is torn down.
  end_session();
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
  grpc.services = {node->service_->service()};
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
  facts.numerics_version = kNumericsVersion;
  facts.version = options_.version;
  facts.device = options_.device;
  facts.isa = std::string(IsaName(options_.isa));
  facts.threads = options_.threads;
  facts.memory_bytes = options_.memory_bytes;
  facts.resident_bytes = ResidentBytes();
  const std::lock_guard lock(mutex_);
  facts.state = state_;
  facts.weight_bytes = model_ == nullptr ? 0 : model_->bytes();
  if (session_ != nullptr) {
    const NodeSession::Stats stats = session_->stats();
    facts.steps = stats.steps;
    facts.expert_calls = stats.expert_calls_served;
    facts.session = stats.running ? session_id_ : 0;
    if (!stats.running) facts.state = "ready";
  }
  return facts;
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
  return Annotate(not_found, fmt::format("worker '{}'", options_.name));
}

absl::Status WorkerNode::check_plan(const Plan& plan, const ModelFacts& model) const {
  return Annotate(Validate(plan, model), fmt::format("worker '{}'", options_.name));
}

absl::StatusOr<std::vector<WeightSample>> WorkerNode::check_weights(const PrepareOrder& order,
                                                                    const OpenedModel& model,
                                                                    const NodeSlice& slice) const {
  std::vector<WeightSample> samples = SampleSlice(*model.weights, slice);
  const absl::Status same = CompareSamples(order.samples, samples);
  if (!same.ok()) {
    return Annotate(
        same, fmt::format("worker '{}': {} is another model than the coordinator's of the same config, such "
                          "as another fine-tune. Copy the coordinator's folder here",
                          options_.name, model.checkpoint->folder()));
  }
  return samples;
}

absl::Status WorkerNode::check_limits(const OpenedModel& model, const Plan& plan, const NodeSlice& slice,
                                      const StepLimits& limits) const {
  RETURN_IF_ERROR(Annotate(CheckLimits(limits, model.spec), fmt::format("worker '{}'", options_.name)));
  if (options_.memory_bytes <= 0) return absl::OkStatus();
  const int64_t weights = SliceBytes(model.spec, model.footprint, slice);
  const int64_t cache = CacheBytes(model.facts, slice, plan.kv_dtype, limits);
  if (weights <= options_.memory_bytes && cache <= options_.memory_bytes - weights) return absl::OkStatus();
  return ResourceExhausted(
      "worker '{}': its shard of the model takes {} and its part of the cache {} ({} KV positions, {} "
      "states), "
      "it may use {} (--memory)",
      options_.name, FormatBytes(weights), FormatBytes(cache), int64_t{limits.blocks} * kBlockPositions,
      limits.state_slots, FormatBytes(options_.memory_bytes));
}

absl::StatusOr<int64_t> WorkerNode::prepare(const PrepareOrder& order, const PrepareProgress& progress) {
  const std::unique_lock work(work_, std::try_to_lock);
  if (!work.owns_lock()) return FailedPrecondition("worker '{}' is busy with another call", options_.name);
  NodeSlice slice = SliceOf(order.plan, order.node);
  {
    const std::lock_guard lock(mutex_);
    if (model_ != nullptr && model_->slice() == slice && model_->checkpoint().hash() == order.model_hash &&
        CompareSamples(order.samples, samples_).ok()) {
      RETURN_IF_ERROR(check_plan(order.plan, opened_.facts));
      RETURN_IF_ERROR(check_limits(opened_, order.plan, slice, order.limits));
      return model_->bytes();
    }
  }
  ASSIGN_OR_RETURN(OpenedModel model, find_model(order));
  RETURN_IF_ERROR(check_plan(order.plan, model.facts));
  RETURN_IF_ERROR(check_limits(model, order.plan, slice, order.limits));
  ASSIGN_OR_RETURN(std::vector<WeightSample> samples, check_weights(order, model, slice));
  end_session();  // It runs on the weights that go now.
  {
    const std::lock_guard lock(mutex_);
    model_.reset();
    state_ = "loading";
  }
  LogInfo("loading {}: layers [{}, {})", model.checkpoint->folder(), slice.layers.begin, slice.layers.end);
  auto loaded = NodeModel::Load(model.weights, std::move(slice), pool_, progress, options_.packed_cache);
  const std::lock_guard lock(mutex_);
  state_ = loaded.ok() ? "ready" : "idle";
  if (!loaded.ok()) return Annotate(loaded.status(), fmt::format("worker '{}'", options_.name));
  model_ = std::move(*loaded);
  opened_ = std::move(model);
  samples_ = std::move(samples);
  LogInfo("loaded {}, {} experts", model_->load_stats().text(), model_->experts().count());
  return model_->bytes();
}

absl::Status WorkerNode::check_open(const OpenOrder& order) const {
  const std::lock_guard lock(mutex_);
  const NodeSlice slice = SliceOf(order.plan, order.node);
  if (model_ == nullptr || !(model_->slice() == slice)) {
    return FailedPrecondition(
        "worker '{}' holds no shard of this plan: it was restarted, or prepared for another", options_.name);
  }
  RETURN_IF_ERROR(check_plan(order.plan, opened_.facts));
  return check_limits(opened_, order.plan, slice, order.limits);
}

absl::Status WorkerNode::open(const OpenOrder& order) {
  const std::unique_lock work(work_, std::try_to_lock);
  if (!work.owns_lock()) return FailedPrecondition("worker '{}' is busy with another call", options_.name);
  // What is refused leaves the session that runs alone.
  RETURN_IF_ERROR(check_open(order));
  auto transport = endpoint_->open_session(
      WireSession(order.plan, order.node, order.session, model_->checkpoint().hash()));
  if (!transport.ok()) return Annotate(transport.status(), fmt::format("worker '{}'", options_.name));
  end_session();
  const absl::Status started = start_session(order, *std::move(transport));
  if (!started.ok()) end_session();
  return Annotate(started, fmt::format("worker '{}'", options_.name));
}

absl::Status WorkerNode::start_session(const OpenOrder& order, std::unique_ptr<Transport> transport) {
  NodeSession::Options options;
  options.plan = order.plan;
  options.self = order.node;
  options.model = model_.get();
  options.kernels = &SelectKernels(options_.isa);
  options.pool = &pool_;
  options.transport = std::move(transport);
  options.limits = order.limits;
  options.limits.vocabulary = model_->spec().vocabulary;
  options.expert_timeout = order.expert_timeout;
  options.log_name = options_.name;
  ASSIGN_OR_RETURN(std::unique_ptr<NodeSession> session, NodeSession::Create(std::move(options)));
  {
    const std::lock_guard lock(mutex_);
    session_ = std::move(session);
    session_id_ = order.session;
    state_ = "serving";
    session_->start();
  }
  RETURN_IF_ERROR(session_->transport().connect(Deadline::after_ms(kConnectMs)));
  LogInfo("session open: epoch {}, node {} of {}", order.plan.epoch, order.node, order.plan.nodes.size());
  return absl::OkStatus();
}

void WorkerNode::end_session() {
  std::unique_ptr<NodeSession> session;
  {
    const std::lock_guard lock(mutex_);
    session = std::move(session_);
    session_id_ = 0;
    if (state_ == "serving") state_ = "ready";
  }
  if (session != nullptr) session->stop();
}

void WorkerNode::close(uint64_t session) {
  const std::lock_guard work(work_);
  {
    const std::lock_guard lock(mutex_);
    if (session_id_ != session) return;
  }
  end_session();
}

}  // namespace shoal
