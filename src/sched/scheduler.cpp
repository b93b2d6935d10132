#include "sched/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

/// How long the steps in flight of a lost engine may take to come back with their error before the scheduler
/// ends their requests itself.
constexpr Duration kLostStepGrace = std::chrono::seconds(2);
/// The longest sleep: the engine's state is looked at again even if a notification never came, and sinks are
/// told the time.
constexpr Duration kSleepMax = std::chrono::seconds(1);
/// A request that was in the failing step of so many engines in a row, without a token between, may be what
/// ends them, and must not do so until its deadline.
constexpr int kLossesInARowMax = 5;

/// As CheckFits, of a request that has not begun; asks for no more tokens than there is room for.
absl::Status Fit(GenerationRequest& request, const EngineLimits& limits) {
  const int64_t prompt = std::ssize(request.prompt);
  const int64_t rest = PositionsMax(limits) - prompt;
  if (rest < std::min<int64_t>(request.max_tokens, 1)) return ContextExceeded(prompt, PositionsMax(limits));
  request.max_tokens = std::min(request.max_tokens, rest);
  return CheckFits(request, limits);
}

/// Ids that would end the text before min_tokens get a bias that no logit outweighs. Returns how many.
size_t WithholdEnds(GenerationRequest& request) {
  if (request.min_tokens <= 0 || request.ignore_eos || request.constraint != nullptr) return 0;
  for (const int32_t id : request.eos_ids) {
    request.sampling.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  }
  return request.eos_ids.size();
}

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
  enum class Kind : uint8_t { kSubmit, kCancel, kStepEnd, kKvReport, kEngineState };
  Kind kind = Kind::kEngineState;
  std::vector<std::unique_ptr<Sequence>> sequences;                // kSubmit: of one request
  RequestId id;                                                    // kCancel
  uint64_t generation = 0;                                         // kStepEnd, kKvReport
  absl::StatusOr<StepResult> result = absl::UnknownError("none");  // kStepEnd
  NodeId node;                                                     // kKvReport
  KvReport kv;                                                     // kKvReport
};

// Shared with the callbacks given to the engine, which may outlive the scheduler.
struct Scheduler::Mailbox {
  mutable std::mutex mutex;
  std::condition_variable wake;
  std::vector<Event> events;
  int queued =
      0;  // Sequences that have not begun: in `events`, in the scheduler's hand, in the planner's queue.
  uint64_t next_request = 1;
  uint64_t next_sequence = 1;
  bool stopping = false;
  bool limits_known = false;  // `stats.limits` are those of a real engine.
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
      mask_pool_(options_.mask_threads),
      batch_planner_(options_.batch),
      draft_runner_(options_.draft_engine, options_.draft_step_timeout, batch_planner_,
                    [mailbox = mailbox_] { mailbox->post({.kind = Event::Kind::kEngineState}); }),
      engine_status_(Unavailable("the engine has not started yet")),
      down_since_(Clock::now()),
      ticked_at_(down_since_) {
  mailbox_->stats.engine = engine_status_;
  engine_.set_state_listener([mailbox = mailbox_] { mailbox->post({.kind = Event::Kind::kEngineState}); });
  engine_.set_kv_listener([mailbox = mailbox_](uint64_t generation, NodeId node, KvReport report) {
    mailbox->post(
        {.kind = Event::Kind::kKvReport, .generation = generation, .node = node, .kv = std::move(report)});
  });
  refresh_engine();  // So that the first request finds the limits known.
  publish();
  thread_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() { stop(); }

absl::StatusOr<RequestId> Scheduler::submit(GenerationRequest request, std::shared_ptr<EventSink> sink) {
  std::vector<GenerationRequest> choices;
  choices.push_back(std::move(request));
  return submit(std::move(choices), std::move(sink));
}

absl::StatusOr<RequestId> Scheduler::submit(std::vector<GenerationRequest> choices,
                                            std::shared_ptr<EventSink> sink) {
  if (choices.empty()) return InvalidArgument("the request has no choices; at least one is needed");
  std::optional<EngineLimits> limits;
  {
    std::lock_guard lock(mailbox_->mutex);
    if (mailbox_->limits_known) limits = mailbox_->stats.limits;
  }
  Event event{.kind = Event::Kind::kSubmit};
  for (GenerationRequest& one : choices) {
    if (one.prompt.empty()) return InvalidArgument("the prompt has no tokens; at least one is needed");
    if (one.max_tokens < 0) return InvalidArgument("max_tokens is {}; at least 0 is needed", one.max_tokens);
    if (one.pool == Pool::kSum || (one.pool != Pool::kNone && one.max_tokens > 0)) {
      return InvalidArgument(
          "an embedding is the last row's or the mean, of a request that generates nothing");
    }
    if (limits.has_value()) RETURN_IF_ERROR(Fit(one, *limits));
    auto sequence = std::make_unique<Sequence>();
    sequence->choice = static_cast<int>(event.sequences.size());
    sequence->tokens = one.prompt;
    sequence->request = std::move(one);
    sequence->withheld = WithholdEnds(sequence->request);
    sequence->sink = sink;
    event.sequences.push_back(std::move(sequence));
  }
  const auto count = static_cast<int>(event.sequences.size());
  std::lock_guard lock(mailbox_->mutex);
  if (mailbox_->stopping) return Cancelled("the server is shutting down");
  if (mailbox_->queued >= options_.queue_max) {
    return QueueFull(mailbox_->queued, mailbox_->stats.place_wait_s);
  }
  mailbox_->queued += count;
  mailbox_->stats.waiting += count;
  const RequestId id{mailbox_->next_request++};
  for (const auto& sequence : event.sequences) {
    sequence->id = SeqId{mailbox_->next_sequence++};
    sequence->request_id = id;
  }
  mailbox_->events.push_back(std::move(event));
  mailbox_->wake.notify_one();
  return id;
}

void Scheduler::cancel(RequestId id) { mailbox_->post({.kind = Event::Kind::kCancel, .id = id}); }

std::function<void()> Scheduler::canceller(RequestId id) const {
  return [mailbox = mailbox_, id] { mailbox->post({.kind = Event::Kind::kCancel, .id = id}); };
}

SchedulerStats Scheduler::stats() const {
  std::lock_guard lock(mailbox_->mutex);
  return mailbox_->stats;
}

void Scheduler::stop() {
  {
    std::lock_guard lock(mailbox_->mutex);
    mailbox_->stopping = true;
  }
  mailbox_->wake.notify_one();
  if (thread_.joinable()) thread_.join();
  mask_pool_.stop();
}

void Scheduler::run() {
  NameThread("scheduler");
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
    for (const Event& event : events) arriving_ += static_cast<int>(event.sequences.size());
    for (Event& event : events) handle(event);
    if (stopping) break;
    refresh_engine();
    expire();
    draft_runner_.receive();
    submit_steps();
    draft_runner_.submit();
    tick();
    check_integrity();
    publish();
  }
  std::vector<RequestId> left;
  for (const auto& [id, live] : live_) left.push_back(id);
  fail_all(left, Cancelled("the server is shutting down"));
  publish();
}

void Scheduler::handle(Event& event) {
  switch (event.kind) {
    case Event::Kind::kSubmit:
      return handle_submit(event);
    case Event::Kind::kCancel:
      return fail(event.id, Cancelled("the request was cancelled by its client"));
    case Event::Kind::kStepEnd:
      return handle_step_end(event);
    case Event::Kind::kKvReport:
      return handle_kv_report(event);
    case Event::Kind::kEngineState:
      return;  // refresh_engine() follows.
  }
}

void Scheduler::handle_kv_report(const Event& event) {
  // The first reports of a generation may be the first that is heard of it.
  if (!generation_.has_value() || event.generation > *generation_) refresh_engine();
  if (!engine_up_ || generation_lost_ || event.generation != *generation_) return;
  batch_planner_.disk_report(event.node, event.kv);
}

void Scheduler::handle_submit(Event& event) {
  const RequestId request = event.sequences.front()->request_id;
  Live& live = live_[request];
  live.sink = event.sequences.front()->sink;
  absl::Status fits = absl::OkStatus();
  for (std::unique_ptr<Sequence>& sequence : event.sequences) {
    if (limits_known_ && fits.ok()) fits = Fit(sequence->request, totals_.limits);
    live.open.push_back(sequence->id);
    if (sequence->request.constraint != nullptr) {
      sequence->masks =
          std::make_shared<SequenceMasks>(sequence->id, sequence->request.constraint, mask_pool_, engine_);
      sequence->masks->begin();
    }
    batch_planner_.enqueue(std::move(sequence));
    --arriving_;
  }
  if (!fits.ok()) fail(request, fits);
}

void Scheduler::handle_step_end(Event& event) {
  // Steps of a lost generation were settled when it was lost.
  if (!generation_.has_value() || event.generation != *generation_ || submitted_.empty()) return;
  if (!event.result.ok()) return lose_engine(event.result.status());
  const Submitted submitted = std::move(submitted_.front());
  const int64_t elapsed_ns = NowNs() - submitted.at_ns;
  const auto outcomes = batch_planner_.acknowledge(*event.result, elapsed_ns);
  if (!outcomes.ok()) return lose_engine(outcomes.status(), false);
  submitted_.erase(submitted_.begin());
  const int64_t now_ns = NowNs();
  int64_t tokens = 0;
  for (const BatchPlanner::Outcome& one : *outcomes) tokens += std::ssize(one.tokens);
  waits_.observe({.rows = submitted.rows,
                  .tokens = tokens,
                  .elapsed_ns = now_ns - submitted.at_ns,
                  .period_ns = now_ns - std::max(submitted.at_ns, std::exchange(step_ended_ns_, now_ns))});
  ++totals_.steps;
  totals_.rows += submitted.rows;
  const StepObservation step{.id = event.result->id,
                             .rows = submitted.rows,
                             .elapsed_ns = elapsed_ns,
                             .timings = std::move(event.result->timings)};
  if (options_.on_step) options_.on_step(step);
  tell_step(submitted, step);
  std::vector<std::shared_ptr<EventSink>> told;
  for (const BatchPlanner::Outcome& one : *outcomes) {
    const Sequence* sequence = batch_planner_.find(one.id);
    if (sequence == nullptr) continue;  // Another choice of its request has just failed.
    if (std::ranges::find(told, sequence->sink) == told.end()) told.push_back(sequence->sink);
    deliver(one);
  }
  for (const std::shared_ptr<EventSink>& sink : told) sink->on_step_end();
}

void Scheduler::tell_step(const Submitted& submitted, const StepObservation& step) const {
  std::vector<const EventSink*> told;  // Choices of a request share one.
  for (const SeqId id : submitted.sequences) {
    const Sequence* sequence = batch_planner_.find(id);
    if (sequence == nullptr || std::ranges::count(told, sequence->sink.get()) > 0) continue;
    told.push_back(sequence->sink.get());
    sequence->sink->on_step(step);
  }
}

void Scheduler::deliver(const BatchPlanner::Outcome& outcome) {
  Sequence& sequence = *batch_planner_.find(outcome.id);
  // What is wrong with one sequence ends its request. InvalidArgument: it asks what the model can't do.
  if (!outcome.status.ok()) {
    const bool asked = outcome.status.code() == absl::StatusCode::kInvalidArgument;
    return fail(sequence.request_id, asked ? outcome.status : AsServerFault(outcome.status));
  }
  const GenerationRequest& request = sequence.request;
  if (!outcome.scores.empty()) sequence.sink->on_scores(sequence.choice, outcome.scores);
  if (!outcome.embedding.empty()) sequence.sink->on_embedding(sequence.choice, outcome.embedding);
  if (outcome.complete) return finish(outcome.id, FinishReason::kLength);
  if (outcome.tokens.empty()) return;
  totals_.tokens_generated += std::ssize(outcome.tokens);
  const bool ends_text = !request.ignore_eos || sequence.masks != nullptr;
  const auto is_end = [&](const SampledToken& token) {
    return ends_text && std::ranges::count(request.eos_ids, token.id) > 0;
  };
  const auto end = std::ranges::find_if(outcome.tokens, is_end);
  const auto given = outcome.tokens.first(static_cast<size_t>(end - outcome.tokens.begin()));
  if (!given.empty() && !sequence.sink->on_tokens(sequence.choice, given)) {
    return finish(outcome.id, FinishReason::kStop);
  }
  if (end != outcome.tokens.end()) {
    sequence.sink->on_end_token(sequence.choice, *end);
    return finish(outcome.id, FinishReason::kStop);
  }
  if (sequence.generated() >= request.max_tokens) return finish(outcome.id, FinishReason::kLength);
  if (sequence.withheld > 0 && sequence.generated() >= request.min_tokens) release_ends(sequence);
  if (sequence.masks == nullptr) return;
  for (const SampledToken& token : given) sequence.masks->accept(token.id);
}

// The last stage hears of the new bias with the next step, as if the sequence began: its cache stays as it is. No
// step in flight samples it, for its next token is not scheduled yet.
void Scheduler::release_ends(Sequence& sequence) {
  auto& bias = sequence.request.sampling.logit_bias;
  bias.resize(bias.size() - std::exchange(sequence.withheld, 0));
  sequence.begun = false;
}

// The blocks are given back and counted before the sink hears of the end: who sees the end may rely on it.
void Scheduler::finish(SeqId id, FinishReason reason) {
  const Sequence& sequence = *batch_planner_.find(id);
  const std::shared_ptr<EventSink> sink = sequence.sink;
  const int choice = sequence.choice;
  const DraftTotals drafts = sequence.drafts.totals;
  waits_.observe_answer(sequence.generated());
  const auto live = live_.find(sequence.request_id);
  std::erase(live->second.open, id);
  if (live->second.open.empty()) live_.erase(live);
  batch_planner_.end(id);
  publish();
  if (drafts.drafted > 0) sink->on_drafts(choice, drafts);
  sink->on_finish(choice, reason);
}

// One that has ended is left alone. As above, the blocks come first.
void Scheduler::fail(RequestId id, const absl::Status& status) {
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  const Live live = std::move(it->second);
  live_.erase(it);
  for (const SeqId one : live.open) batch_planner_.end(one);
  publish();
  live.sink->on_error(status);
}

void Scheduler::fail_all(const std::vector<RequestId>& ids, const absl::Status& status) {
  for (const RequestId id : ids) fail(id, status);
}

void Scheduler::tick() {
  const Clock::time_point now = Clock::now();
  if (now - ticked_at_ < kSleepMax) return;
  ticked_at_ = now;
  for (const auto& [id, live] : live_) {
    const bool started =
        std::ranges::any_of(live.open, [&](SeqId one) { return batch_planner_.find(one)->started; });
    if (engine_up_ || started) live.sink->on_tick(now);
  }
}

void Scheduler::refresh_engine() {
  const Engine::State state = engine_.state();
  if (state.status.ok()) {
    if (!generation_.has_value() || *generation_ != state.generation) return engine_started(state);
    if (generation_lost_) return;  // Its caches are not to be trusted: wait for a new one.
    engine_up_ = true;
    engine_status_ = absl::OkStatus();
    if (std::exchange(copy_rounds_, state.copy_rounds) != state.copy_rounds) batch_planner_.copy_again();
    return;
  }
  if (engine_up_) {
    engine_up_ = false;
    down_since_ = Clock::now();
  }
  engine_status_ = state.status;
  if (batch_planner_.steps_in_flight() > 0 && Clock::now() - down_since_ < kLostStepGrace) return;
  if (batch_planner_.running() > 0) return lose_engine(state.status);
  want_caches();
}

void Scheduler::engine_started(const Engine::State& state) {
  // Rebuilt before its loss was noticed here: whatever was in flight went with the old caches.
  if (batch_planner_.running() > 0 || batch_planner_.steps_in_flight() > 0 ||
      batch_planner_.restores_in_flight() > 0) {
    lose_engine(Unavailable("the cluster was rebuilt while the request ran"));
  }
  // Of a generation that was missed nobody knows whether it kept the caches.
  const bool next = generation_ == state.generation - 1;
  generation_ = state.generation;
  const absl::Status sane = CheckLimits(state.limits);
  if (!sane.ok()) return lose_engine(sane, false);
  generation_lost_ = false;
  engine_up_ = true;
  engine_status_ = absl::OkStatus();
  next_step_ = StepId{1};
  copy_rounds_ = state.copy_rounds;
  totals_.limits = state.limits;
  limits_known_ = true;
  const std::span<const uint64_t> missing =
      state.missing == nullptr ? std::span<const uint64_t>() : std::span(*state.missing);
  batch_planner_.reset(totals_.limits, next ? state.keeps_caches : KeptCaches::kNone, missing);
  LogInfo("scheduler: engine is up (generation {}): {} blocks, {} kept, context {}, {} steps in flight",
          state.generation, totals_.limits.blocks, batch_planner_.caches().cached(), totals_.limits.context,
          totals_.limits.steps_in_flight);
  refuse_misfits();
}

// All that wait are held against the limits of the new generation: the planner counts on it.
void Scheduler::refuse_misfits() {
  for (const SeqId id : batch_planner_.waiting_ids()) {
    Sequence* sequence = batch_planner_.find(id);
    if (sequence == nullptr) continue;  // Ended with another choice of its request.
    const absl::Status fits = sequence->started ? CheckFits(sequence->request, totals_.limits)
                                                : Fit(sequence->request, totals_.limits);
    if (fits.ok()) continue;
    // What had begun did fit: that it no longer does is not its client's fault.
    fail(sequence->request_id,
         sequence->started ? Unavailable("the cluster was rebuilt with other limits while the request ran, "
                                         "after {} tokens: {}",
                                         sequence->generated(), Message(fits))
                           : fits);
  }
}

// A failed step invalidates all later ones of its generation (I12), so nothing more is submitted until the
// engine comes back with a new one, which it must if it has not noticed itself that this one is of no use.
void Scheduler::lose_engine(const absl::Status& status, bool trust_caches) {
  const bool resume = options_.on_loss == OnLoss::kResume;
  LogWarning("scheduler: engine lost with {} requests running, which {}: {}", batch_planner_.running(),
             resume ? "wait for it" : "end", ToString(status));
  ++totals_.engine_losses;
  if (engine_up_) down_since_ = Clock::now();
  engine_up_ = false;
  generation_lost_ = true;
  engine_status_ = AsServerFault(status);
  submitted_.clear();
  if (generation_.has_value()) engine_.give_up(*generation_, status);
  const auto ended = batch_planner_.lose_generation(
      {.resume = resume, .losses_in_a_row_max = kLossesInARowMax, .trust_caches = trust_caches});
  std::vector<RequestId> requests;
  for (const std::unique_ptr<Sequence>& sequence : ended) {
    const auto live = live_.find(sequence->request_id);
    std::erase(live->second.open, sequence->id);  // The planner has forgotten it already.
    if (requests.empty() || requests.back() != live->first) requests.push_back(live->first);
  }
  const absl::Status why =
      resume ? MakeError(engine_status_.code(),
                         "the cluster was lost {} times in a row while it computed this request, now by: {}",
                         kLossesInARowMax, Message(engine_status_))
             : engine_status_;
  fail_all(requests, why);
  want_caches();
  publish();
}

// Once of each generation that has ended.
void Scheduler::want_caches() {
  if (!generation_.has_value() || std::exchange(wanted_of_, *generation_) == *generation_) return;
  CacheLedger::Wanted wanted = batch_planner_.wanted();
  engine_.want_caches(*generation_, std::move(wanted.places), wanted.worth);
}

void Scheduler::submit_steps() {
  while (engine_up_ && batch_planner_.steps_in_flight() < totals_.limits.steps_in_flight) {
    std::optional<Step> step = batch_planner_.compose(next_step_);
    if (!step.has_value()) return;
    ++next_step_.value;
    announce(*step);
    submitted_.push_back({.rows = step->rows(), .at_ns = NowNs()});
    if (options_.tell_steps) {
      for (const SeqSlice& slice : step->slices) submitted_.back().sequences.push_back(slice.id);
    }
    submit(*std::move(step));
  }
}

// The step goes out at once; masks follow it as they are computed.
void Scheduler::submit(Step step) {
  const uint64_t generation = *generation_;
  const StepId id = step.id;
  struct Masked {
    std::shared_ptr<SequenceMasks> masks;
    int64_t position = 0;
    std::vector<int32_t> draft;
  };
  std::vector<Masked> masked;
  for (const SeqSlice& slice : step.slices) {
    if (!slice.masked) continue;
    masked.push_back({.masks = batch_planner_.find(slice.id)->masks,
                      .position = slice.position + slice.sample_from + 1,
                      .draft = {slice.tokens.begin() + slice.sample_from + 1, slice.tokens.end()}});
  }
  engine_.submit(
      generation, std::move(step), [mailbox = mailbox_, generation](absl::StatusOr<StepResult> result) {
        mailbox->post({.kind = Event::Kind::kStepEnd, .generation = generation, .result = std::move(result)});
      });
  for (const Masked& one : masked) one.masks->wanted_by(generation, id, one.position, one.draft);
}

// Tells sinks whose choices begin in this step.
void Scheduler::announce(const Step& step) {
  for (const NewSequence& begin : step.begins) {
    Sequence& sequence = *batch_planner_.find(begin.id);
    if (std::exchange(sequence.announced, true)) continue;
    const auto first = std::ranges::find(step.slices, begin.id, &SeqSlice::id);
    sequence.sink->on_begin(sequence.choice, first == step.slices.end() ? 0 : first->position);
  }
}

// What nobody else looks at is looked at here, whenever nothing runs.
void Scheduler::check_integrity() const {
  if (batch_planner_.running() > 0 || batch_planner_.steps_in_flight() > 0 ||
      batch_planner_.restores_in_flight() > 0) {
    return;
  }
  const absl::Status integrity = batch_planner_.verify();
  if (!integrity.ok()) CheckFailed(__FILE__, __LINE__, Message(integrity));
  SHOAL_CHECK_EQ(batch_planner_.caches().pool().used_count(), batch_planner_.caches().cached());
}

void Scheduler::publish() {
  SchedulerStats stats = totals_;
  stats.engine = engine_status_;
  stats.running = batch_planner_.running();
  stats.steps_in_flight = batch_planner_.steps_in_flight();
  const CacheLedger& caches = batch_planner_.caches();
  stats.blocks_total = caches.pool().total();
  stats.blocks_free = caches.pool().free_count();
  stats.blocks_cached = caches.cached();
  stats.blocks_used = caches.pool().used_count() - caches.cached();
  stats.prefix_cache = caches.stats();
  stats.kv_disk = caches.disk().stats();
  stats.preemptions = batch_planner_.preemptions();
  stats.restarts = batch_planner_.restarts();
  stats.drafts = batch_planner_.drafts();
  stats.model_drafts = batch_planner_.model_drafts();
  stats.mtp_drafts = batch_planner_.mtp_drafts();
  stats.draft_model = batch_planner_.draft_model();
  predict_waits(stats);
  std::lock_guard lock(mailbox_->mutex);
  int arriving = arriving_;
  for (const Event& event : mailbox_->events) arriving += static_cast<int>(event.sequences.size());
  stats.waiting = batch_planner_.waiting() + arriving;
  mailbox_->queued = batch_planner_.queued() + arriving;
  mailbox_->limits_known = limits_known_;
  mailbox_->stats = std::move(stats);
}

// Only while requests wait: otherwise nobody does, and a step is not to wait for this either.
void Scheduler::predict_waits(SchedulerStats& stats) const {
  if (batch_planner_.queued() == 0) return;
  const std::vector<RemainingWork> running = batch_planner_.remaining_work();
  stats.place_wait_s = waits_.first_end_s(running);
  stats.queue_wait_s = waits_.queue_s(running, {batch_planner_.queued(), batch_planner_.queued_tokens()});
}

Clock::time_point Scheduler::next_wake() const {
  const Clock::time_point now = Clock::now();
  Clock::time_point wake = now + kSleepMax;
  for (const SeqId id : batch_planner_.live_ids()) {
    const Sequence& sequence = *batch_planner_.find(id);
    wake = std::min(wake, engine_up_ ? sequence.request.deadline.at : gives_up_at(sequence));
  }
  // Already due: expire() has seen it; a wait that is over at once would only spin.
  return std::max(wake, now + std::chrono::milliseconds(1));
}

}  // namespace shoal
