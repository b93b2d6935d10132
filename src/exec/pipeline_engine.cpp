#include "exec/pipeline_engine.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "exec/lost_notice.h"
#include "exec/result_codec.h"
#include "exec/step_codec.h"
#include "plan/spare.h"
#include "wire/payload.h"

namespace shoal {
namespace {

constexpr uint8_t kProbeFlag = 1;  // A kPosition frame that asks instead of telling.
constexpr int64_t kSubmitSendMs =
    1000;  // Links are open and windows hold many steps: this never elapses in health.

}  // namespace

Frame EncodeProbe(Epoch epoch) {
  Frame frame;
  frame.header.kind = FrameKind::kPosition;
  frame.header.flags = kProbeFlag;
  frame.header.epoch = epoch;
  return frame;
}

Frame EncodeExecutorPosition(Epoch epoch, const ExecutorPosition& position) {
  Frame frame;
  frame.header.kind = FrameKind::kPosition;
  frame.header.epoch = epoch;
  frame.header.step = position.step;
  frame.header.layer = position.layer;
  return frame;
}

bool IsProbe(const Frame& frame) {
  return frame.header.kind == FrameKind::kPosition && (frame.header.flags & kProbeFlag) != 0;
}

PipelineEngine::PipelineEngine(LivenessLimits limits) : liveness_(limits) {
  state_.status = Unavailable("the cluster is not up yet");
}

PipelineEngine::~PipelineEngine() { close(Cancelled("the server is shutting down")); }

void PipelineEngine::open(const Plan& plan, Transport* transport, const EngineLimits& limits,
                          KeptCaches keeps_caches, std::vector<uint64_t> missing) {
  std::function<void()> listener;
  {
    const std::lock_guard lock(mutex_);
    SHOAL_CHECK(transport_ == nullptr);  // Whoever opens has closed: the supervisor's thread does both.
    plan_ = plan;
    transport_ = transport;
    liveness_.begin(plan.nodes.size(), Clock::now());
    positions_.clear();
    for (size_t i = 0; i < plan.nodes.size(); ++i) {
      const Range layers = plan.layers_of(NodeId{static_cast<int32_t>(i)});
      positions_.push_back({.layer = LayerId{static_cast<int32_t>(layers.begin)}});
    }
    next_id_ = StepId{1};
    suspected_ = NodeId{-1};
    wanted_.reset();
    lost_.clear();
    state_ = {absl::OkStatus(), state_.generation + 1, limits, keeps_caches};
    if (!missing.empty()) {
      state_.missing = std::make_shared<const std::vector<uint64_t>>(std::move(missing));
    }
    restores_out_ = 0;
    if (kv_listener_) ask_disks();
    listener = listener_;
  }
  if (listener) listener();
}

void PipelineEngine::close(const absl::Status& why) {
  fail(why, NodeId{-1});
  const std::lock_guard lock(mutex_);
  transport_ = nullptr;
}

void PipelineEngine::report_down(const absl::Status& why) {
  std::function<void()> listener;
  {
    const std::lock_guard lock(mutex_);
    if (why.ok() || state_.status.ok()) return;
    state_.status = why;
    listener = listener_;
  }
  if (listener) listener();
}

void PipelineEngine::copy_again() {
  std::function<void()> listener;
  {
    const std::lock_guard lock(mutex_);
    ++state_.copy_rounds;
    listener = listener_;
  }
  if (listener) listener();
}

Engine::State PipelineEngine::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

NodeId PipelineEngine::suspected() const {
  const std::lock_guard lock(mutex_);
  return suspected_;
}

Clock::time_point PipelineEngine::last_heard(NodeId node) const {
  const std::lock_guard lock(mutex_);
  return last_heard_.at(static_cast<size_t>(node.value));
}

std::vector<PipelineEngine::Lost> PipelineEngine::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

void PipelineEngine::set_state_listener(std::function<void()> listener) {
  const std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
}

void PipelineEngine::set_kv_listener(KvListener listener) {
  const std::lock_guard lock(mutex_);
  kv_listener_ = std::move(listener);
  if (kv_listener_ && state_.status.ok()) ask_disks();
}

void PipelineEngine::want_caches(uint64_t generation, std::vector<CachedPlace> places, Duration worth) {
  const std::lock_guard lock(mutex_);
  if (state_.status.ok() || generation != state_.generation) return;
  wanted_ = Wanted{std::move(places), worth};
  told_.notify_all();
}

std::optional<PipelineEngine::Wanted> PipelineEngine::wanted(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (listener_) told_.wait_until(lock, deadline.at, [this] { return wanted_.has_value(); });
  return wanted_;
}

// With the mutex held. Where the question does not arrive, nothing is restored from that disk.
void PipelineEngine::ask_disks() {
  for (const PlanStage& stage : plan_.stages) {
    (void)transport_->send(stage.node, EncodeKvQuestion(plan_.epoch), Deadline::after_ms(kSubmitSendMs));
  }
}

absl::Status PipelineEngine::check_submit(uint64_t generation, StepId step) const {
  if (!state_.status.ok()) return state_.status;
  if (generation != state_.generation) {
    return Unavailable("step {} belongs to generation {} of the cluster, which has ended; {} is up", step,
                       generation, state_.generation);
  }
  if (step != next_id_) return FailedPrecondition("step {} was submitted, expected step {}", step, next_id_);
  return absl::OkStatus();
}

void PipelineEngine::submit(uint64_t generation, Step step, StepDone done) {
  absl::Status sent;
  NodeId first{-1};
  {
    std::unique_lock lock(mutex_);
    const absl::Status refused = check_submit(generation, step.id);
    if (!refused.ok()) {
      lock.unlock();
      return done(refused);
    }
    ++next_id_.value;
    // Without steps no heartbeat is due.
    if (!anything_is_out()) liveness_.heard_all(Clock::now());
    restores_out_ += std::ssize(step.restores) * std::ssize(plan_.stages);
    in_flight_.push_back({step.id, std::move(done)});
    first = plan_.first_node();
    // Sent under the lock: steps of two submitters would otherwise overtake each other, and close() could
    // not promise that the transport is no longer used.
    sent = transport_->send(first, EncodeStep(plan_.epoch, step, {}, {}), Deadline::after_ms(kSubmitSendMs));
    if (!sent.ok()) sent = Annotate(sent, describe(first, step.id));
  }
  // The step is among those that are out, and ends with them.
  if (!sent.ok()) fail(sent, first, generation);
}

void PipelineEngine::send_masks(uint64_t generation, StepId step, std::span<const TokenMask> masks) {
  Frame frame = EncodeMasks(Epoch{}, step, masks);
  absl::Status sent;
  NodeId last{-1};
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok() || generation != state_.generation) return;
    if (std::ranges::find(in_flight_, step, &InFlight::id) == in_flight_.end()) return;
    frame.header.epoch = plan_.epoch;
    last = plan_.last_node();
    sent = transport_->send(last, std::move(frame), Deadline::after_ms(kSubmitSendMs));
    if (!sent.ok()) sent = Annotate(sent, describe(last, step));
  }
  if (!sent.ok()) fail(sent, last, generation);
}

void PipelineEngine::give_up(uint64_t generation, const absl::Status& why) {
  fail(why, NodeId{-1}, generation);
}

// Ends the session that is up; only that of `generation` where one is given.
void PipelineEngine::fail(const absl::Status& why, NodeId suspected, std::optional<uint64_t> generation) {
  SHOAL_CHECK(!why.ok());  // Of all callers: a peer's error without a cause gets one in on_frame.
  std::deque<InFlight> lost;
  std::function<void()> listener;
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok()) return;  // The first failure is the cause; the rest are its echoes.
    if (generation.has_value() && *generation != state_.generation) return;
    state_.status = why;
    suspected_ = suspected;
    const Clock::time_point now = Clock::now();
    last_heard_.clear();
    for (size_t i = 0; i < positions_.size(); ++i) {
      last_heard_.push_back(anything_is_out() ? liveness_.last_heard(i, now) : now);
    }
    lost.swap(in_flight_);
    listener = listener_;
  }
  if (why.code() != absl::StatusCode::kCancelled) LogWarning("cluster lost: {}", Message(why));
  for (InFlight& step : lost) step.done(why);
  if (listener) listener();
}

void PipelineEngine::on_frame(NodeId from, const Frame& frame) {
  switch (frame.header.kind) {
    case FrameKind::kStepResult:
      on_result(from, frame);
      return;
    case FrameKind::kStepError:
      on_error(from, frame);
      return;
    case FrameKind::kPosition:
      on_position(from, frame);
      return;
    case FrameKind::kKvDisk:
      on_kv_report(from, frame);
      return;
    default:
      LogWarning("coordinator: dropped a {} frame from node {}", FrameKindText(frame.header.kind), from);
  }
}

// The node at fault may be another than the one that tells of it: an owner of experts that is gone.
void PipelineEngine::on_error(NodeId from, const Frame& frame) {
  const absl::StatusOr<StepError> error = DecodeStepError(frame);
  if (!error.ok()) return fail(Annotate(error.status(), fmt::format("node {}", from)), from);
  NodeId suspected = error->suspected;
  {
    const std::lock_guard lock(mutex_);
    if (suspected.value < 0 || static_cast<size_t>(suspected.value) >= positions_.size()) suspected = from;
  }
  fail(error->status, suspected);
}

// Whether it is the result that is due, and speaks of nodes of this plan only: the metrics name them.
absl::Status PipelineEngine::check_result(const absl::StatusOr<StepResult>& result) const {
  RETURN_IF_ERROR(result.status());
  if (in_flight_.empty() || in_flight_.front().id != result->id) {
    return FailedPrecondition("result of step {} arrived, expected step {}", result->id,
                              in_flight_.empty() ? StepId{0} : in_flight_.front().id);
  }
  for (const StageTiming& timing : result->timings) {
    if (timing.node.value >= 0 && timing.node.value < std::ssize(plan_.nodes)) continue;
    return FailedPrecondition("result of step {}: timing of node {}, the plan has {} nodes", result->id,
                              timing.node, plan_.nodes.size());
  }
  return absl::OkStatus();
}

void PipelineEngine::on_result(NodeId from, const Frame& frame) {
  absl::StatusOr<StepResult> result = DecodeResult(frame);
  StepDone done;
  absl::Status broken;
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok()) return;
    broken = check_result(result);
    if (broken.ok()) {
      done = std::move(in_flight_.front().done);
      in_flight_.pop_front();
      liveness_.heard_all(Clock::now());
    } else {
      broken = Annotate(broken, describe(from, frame.header.step));
    }
  }
  if (!broken.ok()) return fail(broken, from);
  done(std::move(result));
}

void PipelineEngine::on_position(NodeId from, const Frame& frame) {
  const std::lock_guard lock(mutex_);
  if (from.value < 0 || static_cast<size_t>(from.value) >= positions_.size()) return;
  const auto node = static_cast<size_t>(from.value);
  liveness_.heard(node, Clock::now());
  if (frame.header.layer.value >= 0) positions_[node] = {frame.header.step, frame.header.layer};
}

void PipelineEngine::on_kv_report(NodeId from, const Frame& frame) {
  absl::StatusOr<KvReport> report = DecodeKvReport(frame);
  if (!report.ok()) return fail(Annotate(report.status(), fmt::format("node {}", from)), from);
  KvListener listener;
  uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok()) return;
    restores_out_ = std::max<int64_t>(0, restores_out_ - std::ssize(report->restored));
    generation = state_.generation;
    listener = kv_listener_;
  }
  if (listener) listener(generation, from, *std::move(report));
}

void PipelineEngine::on_peer_down(NodeId peer, const absl::Status& status) {
  absl::Status lost;
  uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok()) return;
    generation = state_.generation;
    const StepId step = in_flight_.empty() ? next_id_ : in_flight_.front().id;
    lost = Unavailable("{}: {}", describe(peer, step), Message(status));
  }
  lose(peer, lost, generation);
}

// Ends the session only where no other node has what this one held: whoever asks it finds the others by itself.
void PipelineEngine::lose(NodeId node, const absl::Status& why, uint64_t generation) {
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok() || generation != state_.generation) return;
    if (node.value >= 0 && node.value < std::ssize(positions_)) {
      const auto index = static_cast<size_t>(node.value);
      if (liveness_.gave_up(index)) return;
      liveness_.give_up(index);
      std::vector<bool> lost;
      for (size_t i = 0; i < positions_.size(); ++i) lost.push_back(liveness_.gave_up(i));
      if (ServesWithout(plan_, lost)) {
        lost_.push_back({node, why});
        for (size_t i = 0; i < lost.size(); ++i) {
          if (lost[i]) continue;
          (void)transport_->send(NodeId{static_cast<int32_t>(i)}, EncodeLostNotice(plan_.epoch, node),
                                 Deadline::after_ms(0));
        }
        LogWarning("the session goes on without a node, others hold its experts: {}", Message(why));
        return;
      }
    }
  }
  fail(why, node, generation);
}

void PipelineEngine::tick() {
  absl::Status verdict;
  NodeId late{-1};
  uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!state_.status.ok() || !anything_is_out()) return;
    generation = state_.generation;
    const Clock::time_point now = Clock::now();
    if (const auto found = liveness_.late(now)) {
      late = NodeId{static_cast<int32_t>(found->node)};
      const StepId step = in_flight_.empty() ? StepId{next_id_.value - 1} : in_flight_.front().id;
      verdict = Unavailable("{}: no heartbeat for {:.1f} s", describe(late, step), SecondsOf(found->silent));
    } else if (liveness_.probe_is_due(now)) {
      probe_all();
    }
  }
  if (!verdict.ok()) lose(late, verdict, generation);
}

void PipelineEngine::probe_all() {
  for (size_t i = 0; i < positions_.size(); ++i) {
    if (liveness_.gave_up(i)) continue;
    // A probe that cannot be sent is a probe that is not answered.
    (void)transport_->send(NodeId{static_cast<int32_t>(i)}, EncodeProbe(plan_.epoch), Deadline::after_ms(0));
  }
}

std::string PipelineEngine::describe(NodeId node, StepId step) const {
  if (node.value < 0 || static_cast<size_t>(node.value) >= plan_.nodes.size())
    return fmt::format("step {}", step);
  const Range layers = plan_.layers_of(node);
  const LayerId at = positions_[static_cast<size_t>(node.value)].layer;
  std::string holds = plan_.segments.empty() ? "experts only" : "experts or segments only";
  if (!layers.empty()) holds = fmt::format("layers [{}, {})", layers.begin, layers.end);
  return fmt::format("node '{}' ({}), layer {}, step {}", plan_.node(node).name, holds, std::max(at.value, 0),
                     step);
}

}  // namespace shoal
