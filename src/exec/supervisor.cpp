#include "exec/supervisor.h"

#include <utility>

#include "base/log.h"
#include "base/status.h"

namespace shoal {

Supervisor::Supervisor(SessionHost& host, PipelineEngine& engine, PlanSource make_plan, Duration retry_pause)
    : host_(host), engine_(engine), make_plan_(std::move(make_plan)), retry_pause_(retry_pause) {}

Supervisor::~Supervisor() { stop(); }

absl::Status Supervisor::start() {
  RETURN_IF_ERROR(attempt());
  thread_ = std::thread([this] { run(); });
  return absl::OkStatus();
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

void Supervisor::run() {
  SetThreadLogName("supervisor", -1);
  constexpr auto kPoll = std::chrono::milliseconds(50);  // How late a lost cluster may be noticed here.
  while (true) {
    {
      std::unique_lock lock(mutex_);
      const Duration pause = last_attempt_.ok() ? Duration(kPoll) : retry_pause_;
      if (changed_.wait_for(lock, pause, [this] { return stopping_; })) return;
    }
    const absl::Status state = engine_.state().status;
    if (state.ok()) continue;
    host_.close(engine_, state);
    const absl::Status opened = attempt();
    const std::lock_guard lock(mutex_);
    if (opened.ok()) {
      LogInfo("cluster is up again, epoch {}", epoch_);
    } else if (last_attempt_ != opened) {  // The same failure every half second is said once.
      LogWarning("cluster not up yet: {}", Message(opened));
    }
    last_attempt_ = opened;
  }
}

}  // namespace shoal
