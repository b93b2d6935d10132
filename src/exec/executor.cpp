#include "exec/executor.h"

#include <algorithm>
#include <iterator>
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
  SHOAL_CHECK(tasks_.empty() && started_.empty());
}

absl::StatusOr<std::shared_ptr<const Executor::Task>> Executor::start(std::function<void(Task&)> body) {
  const auto task = std::make_shared<Task>();
  task->executor_ = this;
  task->log_name_ = "executor";
  ASSIGN_OR_RETURN(task->fiber_, Fiber::Create([body = std::move(body), raw = task.get()] { body(*raw); }));
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
  bool polled = false;  // A wait ended with something that was read: its task has the next turn.
  while (adopt()) {
    const uint64_t seen = wakeup_->announced();
    if (!std::exchange(polled, false)) wakeup_->poll();
    if (give_turns()) continue;
    wakeup_->wait(seen, next_due());
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
  task.fiber_->resume();
  SwapThreadLogName(task.log_name_);
}

void Executor::drop_ended() {
  const std::lock_guard lock(mutex_);
  const auto ended = std::erase_if(tasks_, [](const std::shared_ptr<Task>& task) {
    if (!task->fiber_->done()) return false;
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

}  // namespace shoal
