#include "sched/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

/// How long the steps in flight of a lost engine may take to come back with their error before the scheduler
/// ends their requests itself.
constexpr Duration kLostStepGrace = std::chrono::seconds(2);
/// The longest sleep: the engine's state is looked at again even if a notification never came.
constexpr Duration kSleepMax = std::chrono::seconds(1);

/// A step's error as its requests see it: whatever the engine says, it is not the client's fault.
absl::Status AsServerFault(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
      return status;
    case absl::StatusCode::kDeadlineExceeded:
      return Unavailable("{}", Message(status));
    default:
      return Internal("{}: {}", CodeName(status.code()), Message(status));
  }
}

}  // namespace

struct Scheduler::Event {
  enum class Kind : uint8_t { kSubmit, kCancel, kStepEnd, kEngineState };
  Kind kind = Kind::kEngineState;
  std::unique_ptr<Sequence> sequence;                              // kSubmit
  SeqId id;                                                        // kCancel
  uint64_t generation = 0;                                         // kStepEnd
  absl::StatusOr<StepResult> result = absl::UnknownError("none");  // kStepEnd
};

// Shared with the callbacks given to the engine, which may outlive the scheduler.
struct Scheduler::Mailbox {
  mutable std::mutex mutex;
  std::condition_variable wake;
  std::vector<Event> events;
  int waiting = 0;  // Requests in `events` or in the batch planner's queue.
  uint64_t next_id = 1;
  bool stopping = false;
  bool engine_known = false;  // `stats.limits` are those of a real engine.
  SchedulerStats stats;

  void post(Event event) {
    {
      std::lock_guard lock(mutex);
      if (stopping) return;
      events.push_back(std::move(event));
    }
    wake.notify_one();
  }
};

Scheduler::Scheduler(Engine& engine, SchedulerOptions options)
    : engine_(engine),
      options_(std::move(options)),
      mailbox_(std::make_shared<Mailbox>()),
      batch_planner_(options_.batch),
      engine_status_(Unavailable("the engine has not started yet")),
      down_since_(Clock::now()) {
  mailbox_->stats.engine = engine_status_;
  engine_.set_state_listener([mailbox = mailbox_] { mailbox->post({.kind = Event::Kind::kEngineState}); });
  refresh_engine();  // So that the first request finds the limits known.
  publish();
  thread_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() { stop(); }

absl::StatusOr<RequestId> Scheduler::submit(GenerationRequest request, std::shared_ptr<EventSink> sink) {
  if (request.prompt.empty()) return InvalidArgument("the prompt has no tokens; at least one is needed");
  if (request.max_tokens < 1)
    return InvalidArgument("max_tokens is {}; at least 1 is needed", request.max_tokens);
  auto sequence = std::make_unique<Sequence>();
  {
    std::lock_guard lock(mailbox_->mutex);
    if (mailbox_->stopping) return Cancelled("the server is shutting down");
    if (mailbox_->engine_known) RETURN_IF_ERROR(CheckFits(request, mailbox_->stats.limits));
    if (mailbox_->waiting >= options_.queue_max) {
      return ResourceExhausted(
          "{} requests wait already, which is the most this server queues; try again later",
          mailbox_->waiting);
    }
    ++mailbox_->waiting;
    sequence->id = SeqId{mailbox_->next_id++};
    sequence->tokens = request.prompt;
    sequence->request = std::move(request);
    sequence->sink = std::move(sink);
    const RequestId id = sequence->id;
    mailbox_->events.push_back({.kind = Event::Kind::kSubmit, .sequence = std::move(sequence)});
    mailbox_->wake.notify_one();
    return id;
  }
}

void Scheduler::cancel(RequestId id) { mailbox_->post({.kind = Event::Kind::kCancel, .id = id}); }

SchedulerStats Scheduler::stats() const {
  std::lock_guard lock(mailbox_->mutex);
  SchedulerStats stats = mailbox_->stats;
  stats.waiting = mailbox_->waiting;
  return stats;
}

void Scheduler::stop() {
  {
    std::lock_guard lock(mailbox_->mutex);
    mailbox_->stopping = true;
  }
  mailbox_->wake.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Scheduler::run() {
  while (true) {
    std::vector<Event> events;
    bool stopping = false;
    {
      std::unique_lock lock(mailbox_->mutex);
      mailbox_->wake.wait_until(lock, next_wake(),
                                [&] { return mailbox_->stopping || !mailbox_->events.empty(); });
      events.swap(mailbox_->events);
      stopping = mailbox_->stopping;
    }
    for (Event& event : events) handle(event);
    if (stopping) break;
    refresh_engine();
    expire();
    submit_steps();
    publish();
  }
  for (const SeqId id : batch_planner_.live_ids()) fail(id, Cancelled("the server is shutting down"));
  publish();
}

void Scheduler::handle(Event& event) {
  switch (event.kind) {
    case Event::Kind::kSubmit:
      return handle_submit(event);
    case Event::Kind::kCancel:
      if (batch_planner_.find(event.id) != nullptr)
        fail(event.id, Cancelled("the request was cancelled by its client"));
      return;
    case Event::Kind::kStepEnd:
      return handle_step_end(event);
    case Event::Kind::kEngineState:
      return;  // refresh_engine() follows.
  }
}

void Scheduler::handle_submit(Event& event) {
  const SeqId id = event.sequence->id;
  absl::Status fits = absl::OkStatus();
  if (generation_.has_value()) fits = CheckFits(event.sequence->request, totals_.limits);
  batch_planner_.enqueue(std::move(event.sequence));
  if (!fits.ok()) fail(id, fits);
}

void Scheduler::handle_step_end(Event& event) {
  // Steps of a lost generation were settled when it was lost.
  if (!generation_.has_value() || event.generation != *generation_ || submitted_.empty()) return;
  if (!event.result.ok()) return lose_engine(event.result.status());
  const Submitted submitted = submitted_.front();
  auto sampled = batch_planner_.acknowledge(*event.result);
  if (!sampled.ok()) return lose_engine(sampled.status());
  submitted_.erase(submitted_.begin());
  ++totals_.steps;
  totals_.rows += submitted.rows;
  for (const BatchPlanner::Sampled& one : *sampled) deliver(one);
  if (options_.on_step) {
    options_.on_step({.id = event.result->id,
                      .rows = submitted.rows,
                      .elapsed_ns = NowNs() - submitted.at_ns,
                      .timings = std::move(event.result->timings)});
  }
}

void Scheduler::deliver(const BatchPlanner::Sampled& sampled) {
  Sequence& sequence = *batch_planner_.find(sampled.id);
  const GenerationRequest& request = sequence.request;
  ++totals_.tokens_generated;
  if (!request.ignore_eos && std::ranges::count(request.eos_ids, sampled.token) > 0) {
    return finish(sampled.id, FinishReason::kStop);
  }
  if (!sequence.sink->on_token(sampled.token)) return finish(sampled.id, FinishReason::kStop);
  if (sequence.generated() >= request.max_tokens) finish(sampled.id, FinishReason::kLength);
}

// The blocks are given back before the sink hears of the end: who sees the end may count on them.
void Scheduler::finish(SeqId id, FinishReason reason) {
  const std::shared_ptr<EventSink> sink = batch_planner_.find(id)->sink;
  batch_planner_.end(id);
  sink->on_finish(reason);
}

void Scheduler::fail(SeqId id, const absl::Status& status) {
  const std::shared_ptr<EventSink> sink = batch_planner_.find(id)->sink;
  batch_planner_.end(id);
  sink->on_error(status);
}

void Scheduler::refresh_engine() {
  const Engine::State state = engine_.state();
  if (state.status.ok()) {
    if (!generation_.has_value() || *generation_ != state.generation) return engine_started(state.generation);
    if (generation_lost_) return;  // Its caches are not to be trusted: wait for a new one.
    engine_up_ = true;
    engine_status_ = absl::OkStatus();
    return;
  }
  if (engine_up_) {
    engine_up_ = false;
    down_since_ = Clock::now();
  }
  engine_status_ = state.status;
  const bool settled = batch_planner_.steps_in_flight() == 0 || Clock::now() - down_since_ >= kLostStepGrace;
  if (batch_planner_.running() > 0 && settled) lose_engine(state.status);
}

void Scheduler::engine_started(uint64_t generation) {
  // Rebuilt behind our back: whatever was in flight went with the old caches.
  if (batch_planner_.running() > 0 || batch_planner_.steps_in_flight() > 0) {
    lose_engine(Unavailable("the cluster was rebuilt while the request ran"));
  }
  generation_ = generation;
  generation_lost_ = false;
  engine_up_ = true;
  engine_status_ = absl::OkStatus();
  next_step_ = StepId{1};
  totals_.limits = engine_.limits();
  batch_planner_.reset(totals_.limits);
  LogInfo("scheduler: engine is up (generation {}): {} blocks, context {}, {} steps in flight", generation,
          totals_.limits.blocks, totals_.limits.context, totals_.limits.steps_in_flight);
  for (const SeqId id : batch_planner_.waiting_ids()) {
    const absl::Status fits = CheckFits(batch_planner_.find(id)->request, totals_.limits);
    if (!fits.ok()) fail(id, fits);
  }
}

// A failed step invalidates all later ones of its generation (I12), so nothing more is submitted until the
// engine comes back with a new one. Requests that had begun end with the error; the queue waits.
void Scheduler::lose_engine(const absl::Status& status) {
  LogWarning("scheduler: engine lost with {} requests running: {}", batch_planner_.running(),
             ToString(status));
  ++totals_.engine_losses;
  if (engine_up_) down_since_ = Clock::now();
  engine_up_ = false;
  generation_lost_ = true;
  engine_status_ = AsServerFault(status);
  submitted_.clear();
  for (const std::unique_ptr<Sequence>& sequence : batch_planner_.fail_started()) {
    sequence->sink->on_error(engine_status_);
  }
}

void Scheduler::expire() {
  const Clock::time_point now = Clock::now();
  for (const SeqId id : batch_planner_.live_ids()) expire_one(id, now);
}

void Scheduler::expire_one(SeqId id, Clock::time_point now) {
  const Sequence& sequence = *batch_planner_.find(id);
  if (now >= sequence.request.deadline.at) {
    return fail(id, DeadlineExceeded("the request's deadline passed after {} of at most {} tokens",
                                     sequence.generated(), sequence.request.max_tokens));
  }
  if (!engine_up_ && sequence.state == SequenceState::kWaiting &&
      now - std::max(down_since_, sequence.queued_at) >= options_.engine_wait) {
    fail(id, Unavailable("the cluster is not ready: {}", Message(engine_status_)));
  }
}

void Scheduler::submit_steps() {
  while (engine_up_ && batch_planner_.steps_in_flight() < totals_.limits.steps_in_flight) {
    std::optional<Step> step = batch_planner_.compose(next_step_);
    if (!step.has_value()) return;
    ++next_step_.value;
    submitted_.push_back({.rows = step->rows(), .at_ns = NowNs()});
    engine_.submit(*std::move(step), [mailbox = mailbox_,
                                      generation = *generation_](absl::StatusOr<StepResult> result) {
      mailbox->post({.kind = Event::Kind::kStepEnd, .generation = generation, .result = std::move(result)});
    });
  }
}

void Scheduler::publish() {
  if (batch_planner_.running() == 0 && batch_planner_.steps_in_flight() == 0) {
    const absl::Status integrity = batch_planner_.verify();
    if (!integrity.ok()) CheckFailed(__FILE__, __LINE__, Message(integrity));
    SHOAL_CHECK_EQ(batch_planner_.pool().used_count(), 0);
  }
  SchedulerStats stats = totals_;
  stats.engine = engine_status_;
  stats.running = batch_planner_.running();
  stats.steps_in_flight = batch_planner_.steps_in_flight();
  stats.blocks_total = batch_planner_.pool().total();
  stats.blocks_free = batch_planner_.pool().free_count();
  stats.blocks_used = batch_planner_.pool().used_count();
  stats.preemptions = batch_planner_.preemptions();
  std::lock_guard lock(mailbox_->mutex);
  mailbox_->stats = std::move(stats);
  mailbox_->engine_known = generation_.has_value();
  mailbox_->waiting = batch_planner_.waiting() + static_cast<int>(std::ranges::count(
                                                     mailbox_->events, Event::Kind::kSubmit, &Event::kind));
}

Clock::time_point Scheduler::next_wake() const {
  const Clock::time_point now = Clock::now();
  Clock::time_point wake = now + kSleepMax;
  for (const SeqId id : batch_planner_.live_ids()) {
    const Sequence& sequence = *batch_planner_.find(id);
    wake = std::min(wake, sequence.request.deadline.at);
    if (!engine_up_) {
      wake = std::min(wake, std::max(down_since_, sequence.queued_at) + options_.engine_wait);
    }
  }
  // Already due: expire() has seen it; a wait that is over at once would only spin.
  return std::max(wake, now + std::chrono::milliseconds(1));
}

}  // namespace shoal
