#include "cluster/supervisor.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr Duration kPoll = std::chrono::milliseconds(50);  // How late a lost cluster may be noticed here.
constexpr Duration kAdvicePause = std::chrono::milliseconds(500);
// After nodes have failed to load; links that could not be opened are tried again sooner, at first.
constexpr Duration kAfterFailedMove = std::chrono::seconds(10);

}  // namespace

Supervisor::Supervisor(SessionHost& host, PipelineEngine& engine, PlanSource make_plan, RetryPauses pauses,
                       ReplanAdvice advice, std::function<std::optional<Duration>()> next_change)
    : host_(host),
      engine_(engine),
      make_plan_(std::move(make_plan)),
      pauses_(pauses),
      advice_(std::move(advice)),
      next_change_(std::move(next_change)) {}

Supervisor::~Supervisor() { stop(); }

void Supervisor::start() {
  thread_ = std::thread([this] { run(); });
}

void Supervisor::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  host_.interrupt();
  if (thread_.joinable()) thread_.join();
  if (mover_.joinable()) mover_.join();
  host_.close(engine_, Cancelled("the server is shutting down"));
}

absl::Status Supervisor::last_attempt() const {
  const std::lock_guard lock(mutex_);
  return last_attempt_;
}

std::shared_ptr<const Plan> Supervisor::plan() const {
  const std::lock_guard lock(mutex_);
  return plan_;
}

std::optional<Supervisor::Move> Supervisor::move() const {
  const std::lock_guard lock(mutex_);
  return move_;
}

absl::Status Supervisor::attempt() {
  if (next_.has_value()) {
    Plan plan = *std::move(next_);
    next_.reset();
    return open(std::move(plan));
  }
  ASSIGN_OR_RETURN(Plan made, make_plan_());
  return open(std::move(made));
}

absl::Status Supervisor::open(Plan made) {
  made.epoch = Epoch{++epoch_.value};
  const auto plan = std::make_shared<const Plan>(std::move(made));
  {
    const std::lock_guard lock(mutex_);
    plan_ = plan;
  }
  return host_.open(*plan, engine_);
}

void Supervisor::note(const absl::Status& outcome) {
  const std::lock_guard lock(mutex_);
  if (outcome.ok()) {
    LogInfo("cluster is up, epoch {}", epoch_);
  } else {
    engine_.report_down(outcome);
    if (last_attempt_ != outcome && !stopping_) LogWarning("cluster not up yet: {}", Message(outcome));
  }
  last_attempt_ = outcome;
}

Duration Supervisor::retry_pause(Duration longest) const {
  const std::optional<Duration> change = next_change_ ? next_change_() : std::nullopt;
  return std::min(longest, std::max<Duration>(change.value_or(longest), kPoll));
}

bool Supervisor::pause(Duration duration) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, duration, [this] { return stopping_; });
}

void Supervisor::begin_move(Replan replan) {
  LogInfo("nodes load for another plan, while the session goes on: {}", replan.why);
  moving_from_ = engine_.state().generation;
  {
    const std::lock_guard lock(mutex_);
    move_ = Move{replan.why, absl::OkStatus()};
    prepared_.reset();
  }
  mover_ = std::thread([this, plan = replan.plan] {
    SetThreadLogName("supervisor", -1);
    NameThread("mover");
    const absl::Status prepared = host_.prepare(plan);
    const std::lock_guard lock(mutex_);
    prepared_ = prepared;
    changed_.notify_all();
  });
  replan_ = std::move(replan);
  ask_ = Deadline();  // When all is loaded, at once.
}

void Supervisor::ask_for_advice() {
  if (!advice_ || !ask_.expired()) return;
  ask_ = Deadline::after(kAdvicePause);
  std::optional<Replan> replan = advice_();
  if (replan.has_value()) begin_move(*std::move(replan));
}

Replan::Turn Supervisor::turn_of_move() {
  if (!replan_->turn) return Replan::Turn::kGo;
  if (!ask_.expired()) return Replan::Turn::kWait;
  ask_ = Deadline::after(kAdvicePause);
  return replan_->turn();
}

void Supervisor::drop_move(std::optional<Move> told) {
  replan_.reset();
  const std::lock_guard lock(mutex_);
  move_ = std::move(told);
}

void Supervisor::stay(const absl::Status& why, Duration pause) {
  LogWarning("the session goes on as it is: {}", Message(why));
  ask_ = Deadline::after(pause);
  drop_move(Move{replan_->why, why});
}

bool Supervisor::ready_to_move() {
  if (!replan_.has_value()) {
    ask_for_advice();
    return false;
  }
  absl::Status outcome;
  {
    const std::lock_guard lock(mutex_);
    if (!prepared_.has_value()) return false;
    outcome = *prepared_;
  }
  if (mover_.joinable()) mover_.join();
  // What was best for a session that has ended meanwhile need not be so now.
  if (moving_from_ != engine_.state().generation) {
    drop_move(std::nullopt);
    return false;
  }
  // Where there is no room for both, nodes load while nothing is served.
  if (!outcome.ok() && !absl::IsResourceExhausted(outcome)) {
    stay(outcome, kAfterFailedMove);
    return false;
  }
  const Replan::Turn turn = turn_of_move();
  if (turn == Replan::Turn::kDrop) drop_move(std::nullopt);
  if (turn != Replan::Turn::kGo) return false;
  if (!outcome.ok()) {
    LogInfo("the session ends before nodes load: {}", Message(outcome));
    return true;
  }
  const absl::Status ahead = host_.open_ahead(replan_->plan);
  if (ahead.ok()) return true;
  links_pause_ = std::clamp<Duration>(2 * links_pause_, kAdvicePause, kAfterFailedMove);
  stay(ahead, links_pause_);
  return false;
}

Supervisor::Ended Supervisor::watch() {
  size_t told = 0;
  links_pause_ = {};
  while (engine_.state().status.ok()) {
    const std::vector<PipelineEngine::Lost> lost = engine_.lost();
    for (; told < lost.size(); ++told) {
      if (host_.on_lost(lost[told].node, lost[told].why)) engine_.copy_again();
    }
    if (ready_to_move()) {
      LogInfo("the session ends for another plan: {}", replan_->why);
      if (replan_->adopt) replan_->adopt();
      next_ = std::move(replan_->plan);
      host_.close(engine_, Unavailable("{}", replan_->why));
      drop_move(std::nullopt);
      return Ended::kForAnotherPlan;
    }
    if (!pause(kPoll)) return Ended::kStopped;
  }
  host_.close(engine_, engine_.state().status);
  return Ended::kLost;
}

void Supervisor::run() {
  SetThreadLogName("supervisor", -1);
  NameThread("supervisor");
  Duration wait = pauses_.first;
  while (true) {
    const absl::Status outcome = attempt();
    note(outcome);
    if (outcome.ok()) {
      const Clock::time_point opened = Clock::now();
      const Ended ended = watch();
      if (ended == Ended::kStopped) return;
      // One that broke soon may do so again: only what lasted is rebuilt at once.
      if (ended == Ended::kForAnotherPlan || Clock::now() - opened >= 2 * pauses_.max) {
        wait = pauses_.first;
        continue;
      }
    }
    if (!pause(retry_pause(wait))) return;
    wait = std::min(wait + wait / 2, pauses_.max);
  }
}

}  // namespace shoal
