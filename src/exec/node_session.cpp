#include "exec/node_session.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "exec/awaited_reply.h"
#include "exec/lost_notice.h"
#include "exec/model_facts.h"
#include "exec/result_codec.h"

namespace shoal {
namespace {

constexpr int64_t kTickMs = 250;  // CoordinatorSink::tick at least so often.
/// Of copies that wait for the buddy: the executor copies ahead of a fetch that takes a moment.
constexpr int64_t kOutboxBytes = int64_t{32} << 20;
// A mask is computed by the coordinator, which a crowded machine may keep from it; that it is gone is told otherwise.
constexpr Duration kMaskTimeout = std::chrono::seconds(10);
constexpr int64_t kSendMs =
    3000;  // Windows hold many frames: only a peer that takes nothing in lets this pass.

/// What the backend is to keep for a session.
BackendSessionOptions SessionOf(const NodeSession::Options& options) {
  BackendSessionOptions session;
  session.blocks = options.limits.blocks;
  session.state_slots = options.limits.state_slots;
  session.kv_dtype = CacheDTypeOf(options.plan.kv_dtype);
  if (options.plan.activations == Plan::Activations::kF32) session.activations = ActivationMode::kF32;
  session.rows_max = options.limits.rows_max;
  session.profile = options.profile;
  return session;
}

}  // namespace

SessionOptions WireSession(const Plan& plan, NodeId self, uint64_t session, const NodeModel& model) {
  SessionOptions wire;
  wire.session = session;
  wire.self = self;
  wire.identity = {model.backend().numerics_class(), model.checkpoint().hash(),
                   std::string(Name(plan.kv_dtype))};
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    wire.peers.push_back({NodeId{static_cast<int32_t>(i)}, plan.nodes[i].name, plan.nodes[i].address});
  }
  return wire;
}

NodeSession::NodeSession(Options options) : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<NodeSession>> NodeSession::Create(Options options) {
  SHOAL_CHECK(options.model != nullptr && options.executor != nullptr);
  std::unique_ptr<NodeSession> session(new NodeSession(std::move(options)));
  const Options& o = session->options_;
  session->options_.limits.short_rope_positions = ShortRopePositions(o.model->spec());
  session->options_.limits.window = VisiblePositions(o.model->spec());
  // Whatever the coordinator asks for: angles of positions beyond are not computed (Cos and Sin CHECK them).
  session->options_.limits.context = std::min(o.limits.context, o.model->spec().max_positions);
  if (KeepsState(o.model->spec()) && o.limits.state_slots < 2) {
    return InvalidArgument("session: expected 2 state slots at least for a model that keeps states, got {}",
                           o.limits.state_slots);
  }
  ASSIGN_OR_RETURN(session->compute_, o.model->held().open(SessionOf(o)));
  BackendSession* compute = session->compute_.get();
  session->transport_ = std::make_unique<TaskTransport>(*o.transport, *o.executor);
  NodeSession* raw = session.get();
  session->masks_ =
      std::make_unique<MaskInbox>(MaskInbox::Options{.vocabulary = o.limits.vocabulary,
                                                     .timeout = std::max(kMaskTimeout, o.expert_timeout)},
                                  [raw](Deadline deadline) { return raw->pump(deadline); });
  if (o.model->runs_layers()) {
    session->kv_tier_ = std::make_unique<KvTier>(KvTier::Options{.compute = compute,
                                                                 .store = o.kv_disk,
                                                                 .identity = CachesKeyOf(o.plan, *o.model),
                                                                 .layers = o.model->shard().layers,
                                                                 .wake = [raw] { raw->transport_->wake(); }});
    if (o.copied) {
      session->outbox_ = std::make_shared<CopyOutbox>(kOutboxBytes, [raw] { raw->transport_->wake(); });
      session->copier_ =
          std::make_unique<KvCopier>(*compute, CachesKeyOf(o.plan, *o.model), session->outbox_);
    }
    session->runner_ = std::make_unique<StageRunner>(StageRunner::Options{
        &o.plan, o.self, compute, o.limits, o.model->spec().width, o.model->spec().row_width(),
        o.model->backend().limits().logit_rows, o.hook, o.profile, session->masks_.get(),
        session->kv_tier_.get(), session->copier_.get()});
  }
  session->exchange_ = std::make_unique<PlannedExchange>(
      PlannedExchange::Options{&o.plan, o.self, compute, session->transport_.get(), o.expert_timeout,
                               o.use.get()},
      [raw](Deadline deadline) { return raw->pump(deadline); });
  return session;
}

NodeSession::~NodeSession() { stop(); }

absl::Status NodeSession::start() {
  running_ = true;
  absl::StatusOr<std::shared_ptr<const Executor::Task>> task =
      options_.executor->start([this](Executor::Task& turns) { run(turns); },
                               Executor::Pulse{[this] { return options_.model->backend().progress(); },
                                               [this] { beat(); }, HeartbeatPause(options_.expert_timeout)});
  if (!task.ok()) running_ = false;
  RETURN_IF_ERROR(task.status());
  task_ = *std::move(task);
  return absl::OkStatus();
}

void NodeSession::stop() {
  stopping_ = true;
  if (outbox_ != nullptr) outbox_->close();
  options_.transport->close();
  if (task_ != nullptr) options_.executor->join(*task_);
  task_ = nullptr;
}

NodeSession::Stats NodeSession::stats() const {
  return {steps_run_.load(), calls_served_.load(), running_.load(), orphaned_.load()};
}

void NodeSession::run(Executor::Task& task) {
  transport_->bind(task);
  SetThreadLogName(options_.log_name, options_.self.value);
  options_.model->backend().enter_thread();
  while (!stopping_) {
    if (!steps_.empty()) {
      const Frame frame = std::move(steps_.front());
      steps_.pop_front();
      run_step(frame);
    }
    if (copier_ != nullptr) copier_->copy_some();
    // With steps or copies waiting only what has already arrived is handled.
    const bool idle = steps_.empty() && (copier_ == nullptr || !copier_->can_copy());
    const absl::Status pumped = pump(Deadline::after_ms(idle ? kTickMs : 0));
    if (!pumped.ok() && pumped.code() != absl::StatusCode::kDeadlineExceeded) {
      if (!stopping_) LogInfo("session ended: {}", Message(pumped));
      break;
    }
  }
  running_ = false;
}

absl::Status NodeSession::pump(Deadline deadline) {
  if (options_.sink != nullptr) options_.sink->tick();
  if (kv_tier_ != nullptr) tell_kv();
  absl::StatusOr<Event> event = transport_->receive(deadline);
  if (!event.ok()) return event.status();
  handle(std::move(*event));
  return absl::OkStatus();
}

void NodeSession::handle(Event event) {
  switch (event.kind) {
    case Event::Kind::kFrame:
      handle_frame(event.from, std::move(event.frame));
      return;
    case Event::Kind::kPeerDown:
      if (event.from == Plan::kCoordinator) {
        orphaned_ = true;
        masks_->on_lost(event.status);
      }
      exchange_->on_lost(event.from, event.status);
      if (options_.sink != nullptr) {
        options_.sink->on_peer_down(event.from, event.status);
      } else {
        LogWarning("{}", Message(event.status));
        lose_next_stage(event.from, event.status);
      }
      return;
    case Event::Kind::kWake:
      return;
  }
}

// Steps that were on their way there are lost, which nobody else would notice: both nodes go on answering probes.
void NodeSession::lose_next_stage(NodeId peer, const absl::Status& why) {
  const Plan& plan = options_.plan;
  const std::optional<int> stage = plan.stage_of(options_.self);
  const auto next = static_cast<size_t>(stage.value_or(-1) + 1);
  if (!stage.has_value() || next == plan.stages.size() || plan.stages[next].node != peer) return;
  if (orphaned_ || failed_step_.value != 0) return;
  tell(position().step,
       {Unavailable("node '{}' lost: {}, with steps of node '{}' on the way to its layer {}, at most step {}",
                    plan.node(peer).name, Message(why), plan.node(options_.self).name,
                    plan.stages[next].layers.begin, position().step),
        peer});
}

void NodeSession::handle_frame(NodeId from, Frame frame) {
  if (frame.header.epoch != options_.plan.epoch) {
    LogDebug("dropped: {}; this session is epoch {}", Describe(frame.header), options_.plan.epoch);
    return;
  }
  if (const std::optional<NodeId> lost = LostNoticeOf(frame)) {
    if (from != Plan::kCoordinator) return;
    return exchange_->on_lost(*lost, Unavailable("the coordinator hears nothing of it any more"));
  }
  exchange_->on_heartbeat(from);
  if (IsProbe(frame)) {
    (void)transport_->send(from, EncodeExecutorPosition(options_.plan.epoch, position()),
                           Deadline::after_ms(0));
    return;
  }
  if (IsKvQuestion(frame)) {
    if (kv_tier_ != nullptr) kv_tier_->begin_anew();
    return;
  }
  switch (frame.header.kind) {
    case FrameKind::kStep:
      steps_.push_back(std::move(frame));
      return;
    case FrameKind::kExpertRequest:
    case FrameKind::kSegmentRequest:
      serve(from, frame);
      return;
    case FrameKind::kExpertReply:
    case FrameKind::kExpertError:
      exchange_->on_reply(from, std::move(frame));
      return;
    case FrameKind::kSegmentReply:
    case FrameKind::kSegmentError:
      exchange_->on_segment_reply(from, std::move(frame));
      return;
    case FrameKind::kMasks:
      if (from != Plan::kCoordinator) break;
      masks_->on_masks(frame);
      return;
    case FrameKind::kStepResult:
    case FrameKind::kStepError:
    case FrameKind::kPosition:
    case FrameKind::kKvDisk:
      if (options_.sink != nullptr) {
        options_.sink->on_frame(from, frame);
        return;
      }
      if (frame.header.kind == FrameKind::kPosition) return;  // A heartbeat.
      break;
    default:
      break;
  }
  LogWarning("dropped: {}, which has no business here", Describe(frame.header));
}

void NodeSession::tell_kv() {
  while (const std::optional<KvReport> report = kv_tier_->take_report()) {
    const absl::Status sent = transport_->send(
        Plan::kCoordinator, EncodeKvReport(options_.plan.epoch, *report), Deadline::after_ms(kSendMs));
    if (sent.ok()) continue;
    LogWarning("report of the kv disk not sent: {}", Message(sent));
    // Its sequences would wait for ever.
    if (!report->restored.empty()) fail(position().step, sent);
    return;
  }
}

absl::Status NodeSession::before_layer(LayerId layer) {
  layer_ = layer.value;
  // What has arrived meanwhile is handled between layers: others' expert requests, results, probes.
  while (true) {
    const absl::Status pumped = pump(Deadline::after_ms(0));
    if (pumped.code() == absl::StatusCode::kDeadlineExceeded) return absl::OkStatus();
    RETURN_IF_ERROR(pumped);
  }
}

void NodeSession::beat() {
  const Frame frame = EncodeExecutorPosition(options_.plan.epoch, position());
  for (size_t i = 0; i < options_.plan.nodes.size(); ++i) {
    const NodeId node{static_cast<int32_t>(i)};
    const bool waits = node == Plan::kCoordinator || options_.plan.stage_of(node).has_value();
    // One that cannot be sent is one that is not heard.
    if (waits && node != options_.self) (void)options_.transport->send(node, frame, Deadline{});
  }
}

void NodeSession::note_work() {
  if (const auto first = std::exchange(options_.on_first_work, nullptr)) first();
}

void NodeSession::run_step(const Frame& frame) {
  note_work();
  const StepId id = frame.header.step;
  if (failed_step_.value != 0) return;  // I12: a failed step voids all later ones.
  if (runner_ == nullptr) {
    fail(id, FailedPrecondition("a step came to a node that runs no layers"));
    return;
  }
  if (id.value != step_ + 1) {
    fail(id, FailedPrecondition("step {} came after step {}", id, position().step));
    return;
  }
  step_ = id.value;
  const PhaseTimer timer(options_.profile, StepPhase::kWire);
  absl::StatusOr<Outgoing> out =
      runner_->run(frame, step_arena_, *exchange_, [this](LayerId layer) { return before_layer(layer); });
  if (!out.ok()) {
    fail(id, out.status());
    return;
  }
  const NodeId to = out->to;
  const absl::Status sent = transport_->send(to, std::move(out->frame), Deadline::after_ms(kSendMs));
  if (!sent.ok()) {
    const Plan& plan = options_.plan;
    tell(id, {Unavailable("node '{}' lost: {}, while node '{}' sent it step {}", plan.node(to).name,
                          Message(sent), plan.node(options_.self).name, id),
              to});
    return;
  }
  ++steps_run_;
}

void NodeSession::fail(StepId step, const absl::Status& status) {
  // A lost owner comes first in the message: it, not this node, is what ended the step.
  if (const ExchangeLoss& loss = exchange_->loss(); !loss.status.ok()) {
    return tell(step, {loss.status, loss.owner});
  }
  // Errors of a layer begin with its number.
  tell(step,
       {Annotate(status, fmt::format("node '{}', step {}", options_.plan.node(options_.self).name, step))});
}

void NodeSession::tell(StepId step, const StepError& error) {
  failed_step_ = step;
  if (stopping_) return;
  LogWarning("{}", Message(error.status));
  (void)transport_->send(Plan::kCoordinator,
                         EncodeStepError(options_.plan.epoch, step, position().layer, error),
                         Deadline::after_ms(kSendMs));
}

void NodeSession::serve(NodeId from, const Frame& frame) {
  note_work();
  const PhaseTimer timer(options_.profile, StepPhase::kExchange);
  const bool segments = frame.header.kind == FrameKind::kSegmentRequest;
  Frame reply;
  const absl::Status served = segments ? compute_segments(frame, reply) : compute_experts(frame, reply);
  if (!served.ok()) {
    LogWarning("{} of node '{}': {}", Describe(frame.header), options_.plan.node(from).name, Message(served));
    const uint64_t ticket = segments ? segment_request_.ticket : request_.ticket;
    reply = EncodeExpertError(frame.header, {ticket, served});
  }
  const absl::Status sent = transport_->send(from, std::move(reply), Deadline::after_ms(kSendMs));
  if (!sent.ok()) LogWarning("{} reply not sent: {}", segments ? "segment" : "expert", Message(sent));
}

absl::Status NodeSession::compute_experts(const Frame& frame, Frame& reply) {
  const RowFormat format = RowFormatOf(options_.plan);
  RETURN_IF_ERROR(DecodeExpertRequest(frame, request_, format));
  const auto rows = static_cast<int64_t>(frame.header.rows);
  const ModelSpec& spec = options_.model->spec();
  if (frame.header.cols != spec.width || rows > options_.limits.rows_max || frame.header.layer.value < 0 ||
      frame.header.layer.value >= spec.layer_count()) {
    return InvalidArgument(
        "expert_request: layer {}, {} rows of {}; expected a layer below {}, at most {} rows of {}",
        frame.header.layer, rows, frame.header.cols, spec.layer_count(), options_.limits.rows_max,
        spec.width);
  }
  const MoeSpec* moe = MoeOf(spec.layers[static_cast<size_t>(frame.header.layer.value)]);
  if (moe == nullptr || std::ssize(request_.calls) > rows * moe->top_k) {
    return InvalidArgument("expert_request: {} calls for {} rows of layer {}, expected at most {} a row",
                           request_.calls.size(), rows, frame.header.layer, moe == nullptr ? 0 : moe->top_k);
  }
  serve_arena_.reset();
  const MatView<int64_t> acc = serve_arena_.allocate_rows<int64_t>(rows, spec.width);
  std::fill_n(acc.data, rows * spec.width, int64_t{0});
  const int64_t begin_ns = NowNs();
  RETURN_IF_ERROR(compute_->run_experts(frame.header.layer, request_.rows, request_.calls, acc));
  calls_served_ += request_.calls.size();
  reply = EncodeExpertReply(frame.header, request_.ticket, NowNs() - begin_ns, acc, format);
  return absl::OkStatus();
}

absl::Status NodeSession::compute_segments(const Frame& frame, Frame& reply) {
  RETURN_IF_ERROR(DecodeSegmentRequest(frame, segment_request_));
  const auto& [ticket, half, segments, rows] = segment_request_;
  const LayerId layer = frame.header.layer;
  const SegmentShape* shape = compute_->segment_shape(layer);
  const int64_t count = shape == nullptr ? 0 : std::ssize(shape->hidden);
  if (segments.back() >= count || rows.rows() > options_.limits.rows_max) {
    return InvalidArgument(
        "segment_request: {} rows for segment {} of layer {}, which has {} segments in this plan; expected "
        "at most {} "
        "rows",
        rows.rows(), segments.back(), layer, count, options_.limits.rows_max);
  }
  serve_arena_.reset();
  SegmentAnswer answer;
  const int64_t begin_ns = NowNs();
  ASSIGN_OR_RETURN(answer.rows, RunSegments(*compute_, layer, half, segments, rows, serve_arena_));
  calls_served_ += segments.size();
  answer.compute_ns = NowNs() - begin_ns;
  reply = EncodeSegmentReply(frame.header, ticket, answer);
  return absl::OkStatus();
}

}  // namespace shoal
