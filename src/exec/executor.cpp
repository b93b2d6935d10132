#include "exec/executor.h"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr Duration kIdle = std::chrono::minutes(1);  // An executor without a task looks so often.

}  // namespace

bool Executor::Task::let_others() {
  if (executor_->alone()) return false;
  wait(executor_->wakeup_->announced(), Deadline{});
  return true;
}

void Executor::Task::wait(uint64_t seen, Deadline deadline) {
  if (executor_->alone() && deadline.expired()) return executor_->wakeup_->poll();  // No turn to give.
  seen_ = seen;
  until_ = deadline.at;
  fiber_->suspend();
}

Executor::Executor() : thread_([this] { run(); }) {}

Executor::~Executor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wakeup_->announce();
  thread_.join();
  {
    const std::lock_guard lock(pulse_mutex_);
    pulse_stopping_ = true;
  }
  pulse_changed_.notify_all();
  if (pulse_thread_.joinable()) pulse_thread_.join();
  SHOAL_CHECK(tasks_.empty() && started_.empty());
}

absl::StatusOr<std::shared_ptr<const Executor::Task>> Executor::start(std::function<void(Task&)> body,
                                                                      std::optional<Pulse> pulse) {
  const auto task = std::make_shared<Task>();
  task->executor_ = this;
  task->log_name_ = "executor";
  ASSIGN_OR_RETURN(task->fiber_, Fiber::Create([body = std::move(body), raw = task.get()] { body(*raw); }));
  if (pulse.has_value()) RETURN_IF_ERROR(add_pulse(*task, *std::move(pulse)));
  {
    const std::lock_guard lock(mutex_);
    started_.push_back(task);
    any_started_ = true;
  }
  wakeup_->announce();
  return task;
}

void Executor::join(const Task& task) {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return task.ended_; });
}

void Executor::run() {
  SetThreadLogName("executor", -1);
  NameThread("executor");
  busy_since_ns_.store(NowNs(), std::memory_order_relaxed);
  bool polled = false;  // A wait ended with something that was read: its task has the next turn.
  while (adopt()) {
    const uint64_t seen = wakeup_->announced();
    if (!std::exchange(polled, false)) wakeup_->poll();
    if (give_turns()) continue;
    busy_since_ns_.store(0, std::memory_order_relaxed);
    wakeup_->wait(seen, next_due());
    busy_since_ns_.store(NowNs(), std::memory_order_relaxed);
    polled = wakeup_->announced() != seen;
  }
}

bool Executor::adopt() {
  const std::lock_guard lock(mutex_);
  std::ranges::move(started_, std::back_inserter(tasks_));
  started_.clear();
  any_started_ = false;
  return !stopping_ || !tasks_.empty();
}

bool Executor::due(const Task& task) const {
  return task.seen_ != wakeup_->announced() || Clock::now() >= task.until_;
}

bool Executor::give_turns() {
  bool any = false;
  for (const auto& task : tasks_) {
    if (!due(*task)) continue;
    any = true;
    resume(*task);
  }
  if (any) drop_ended();
  return any;
}

void Executor::resume(Task& task) {
  SwapThreadLogName(task.log_name_);
  turns_.fetch_add(1, std::memory_order_relaxed);
  task.fiber_->resume();
  SwapThreadLogName(task.log_name_);
}

void Executor::drop_ended() {
  const std::lock_guard lock(mutex_);
  const auto ended = std::erase_if(tasks_, [this](const std::shared_ptr<Task>& task) {
    if (!task->fiber_->done()) return false;
    {
      const std::lock_guard pulse_lock(pulse_mutex_);
      pulses_.erase(task.get());
    }
    task->ended_ = true;
    return true;
  });
  if (ended > 0) ended_.notify_all();
}

Clock::time_point Executor::next_due() const {
  Clock::time_point next = Clock::now() + kIdle;
  for (const auto& task : tasks_) next = std::min(next, task->until_);
  return next;
}

absl::Status Executor::add_pulse(const Task& task, Pulse pulse) {
  const std::lock_guard lock(pulse_mutex_);
  if (!pulse_thread_.joinable()) {
    try {
      pulse_thread_ = std::thread([this] { keep_pulse(); });
    } catch (const std::system_error& error) {
      return ResourceExhausted("no thread to tell others of progress with: {}", error.what());
    }
  }
  pulses_.emplace(&task, std::move(pulse));
  pulse_changed_.notify_all();
  return absl::OkStatus();
}

void Executor::keep_pulse() {
  SetThreadLogName("pulse", -1);
  NameThread("pulse");
  uint64_t seen = 0;
  std::unique_lock lock(pulse_mutex_);
  while (!pulse_stopping_) {
    Duration pause = kIdle;
    for (const auto& [task, pulse] : pulses_) pause = std::min(pause, pulse.pause);
    const size_t pulses = pulses_.size();
    pulse_changed_.wait_for(lock, pause, [&] { return pulse_stopping_ || pulses_.size() != pulses; });
    beat_if_alive(seen, pause);
  }
}

uint64_t Executor::progress() const {
  uint64_t progress = turns_.load(std::memory_order_relaxed);
  for (const auto& [task, pulse] : pulses_) progress += pulse.progress();
  return progress;
}

// One that waits answers by itself, and needs no other to speak for it.
void Executor::beat_if_alive(uint64_t& seen, Duration pause) {
  const int64_t busy_since_ns = busy_since_ns_.load(std::memory_order_relaxed);
  if (busy_since_ns == 0 || NowNs() - busy_since_ns < pause.count()) return;
  const uint64_t now = progress();
  if (now == std::exchange(seen, now)) return;
  for (const auto& [task, pulse] : pulses_) pulse.beat();
}

}  // namespace shoal
