// The one thread that runs sessions: those of all nodes of a process that share its cores, by turns. A session is
// a task with a stack of its own; where it waits, and between two layers, the others go on
// (docs/decisions/0012). While they compute for long, a second thread tells those who wait for them, as long as the
// computing gets on (docs/decisions/0033).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "wire/wakeup.h"

namespace shoal {

class Executor {
 public:
  Executor();
  /// After the end of all tasks.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Something that runs on the executor's thread. What follows is called from within.
  class Task {
   public:
    /// Gives every other task a turn, as wait(); false where there is no other.
    bool let_others();
    /// Gives every other task a turn, has what peers have sent been read, and comes back when something was
    /// announced that is not among the first `seen`, or at the deadline.
    void wait(uint64_t seen, Deadline deadline);

   private:
    friend class Executor;
    Executor* executor_ = nullptr;
    std::unique_ptr<Fiber> fiber_;
    std::string log_name_;  // Of its lines, while it does not run.
    uint64_t seen_ = 0;
    Clock::time_point until_{};  // Due at once.
    bool ended_ = false;         // Guarded by the executor's mutex.
  };

  /// How others learn that a task's turn has not come for long, while the executor computes. Both functions are called
  /// from a thread of the executor's own, until the task has ended; they must not wait for anything.
  struct Pulse {
    std::function<uint64_t()> progress;  ///< Moves while the task computes.
    std::function<void()> beat;          ///< Called as long as any task makes progress, every `pause`.
    Duration pause{};
  };
  /// Runs `body` by turns with the other tasks. ResourceExhausted where there is no memory for its stack, or no thread.
  absl::StatusOr<std::shared_ptr<const Task>> start(std::function<void(Task&)> body,
                                                    std::optional<Pulse> pulse = {});
  /// Waits until the task has ended, which is up to the task. Not from a task.
  void join(const Task& task);

  /// What the inboxes of tasks are to tell.
  const std::shared_ptr<Wakeup>& wakeup() const { return wakeup_; }

 private:
  /// Whether the task that runs is the only one.
  bool alone() const { return tasks_.size() == 1 && !any_started_; }
  void run();
  /// Takes in what was started; false where the executor is to end.
  bool adopt();
  bool due(const Task& task) const;
  /// Whether any task had one.
  bool give_turns();
  void resume(Task& task);
  void drop_ended();
  Clock::time_point next_due() const;
  absl::Status add_pulse(const Task& task, Pulse pulse);
  void keep_pulse();
  /// Moves while any task computes, and with each turn.
  uint64_t progress() const;
  void beat_if_alive(uint64_t& seen, Duration pause);

  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();
  std::vector<std::shared_ptr<Task>> tasks_;  // Of the thread.
  std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<std::shared_ptr<Task>> started_;
  std::atomic<bool> any_started_ = false;  // Written with the mutex held.
  bool stopping_ = false;
  std::thread thread_;
  std::atomic<int64_t> busy_since_ns_{0};  // 0: it waits.
  std::atomic<uint64_t> turns_{0};
  std::mutex pulse_mutex_;  // Guards what follows; held during a beat.
  std::condition_variable pulse_changed_;
  std::map<const Task*, Pulse> pulses_;
  bool pulse_stopping_ = false;
  std::thread pulse_thread_;  // From the first pulse on.
};

}  // namespace shoal
