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

}  // namespace

Supervisor::Supervisor(SessionHost& host, PipelineEngine& engine, PlanSource make_plan, RetryPauses pauses,
                       ReplanAdvice advice)
    : host_(host),
      engine_(engine),
      make_plan_(std::move(make_plan)),
      pauses_(pauses),
      advice_(std::move(advice)) {}

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

absl::Status Supervisor::attempt() {
  ASSIGN_OR_RETURN(Plan made, make_plan_());
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

bool Supervisor::pause(Duration duration) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, duration, [this] { return stopping_; });
}

Supervisor::Ended Supervisor::watch() {
  Deadline ask{Clock::now()};
  size_t told = 0;
  while (engine_.state().status.ok()) {
    const std::vector<PipelineEngine::Lost> lost = engine_.lost();
    for (; told < lost.size(); ++told) host_.on_lost(lost[told].node, lost[told].why);
    if (advice_ && ask.expired()) {
      if (const std::optional<std::string> why = advice_()) {
        LogInfo("the session ends for another plan: {}", *why);
        host_.close(engine_, Unavailable("{}", *why));
        return Ended::kForAnotherPlan;
      }
      ask = Deadline::after(kAdvicePause);
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
    if (!pause(wait)) return;
    wait = std::min(wait + wait / 2, pauses_.max);
  }
}

}  // namespace shoal
