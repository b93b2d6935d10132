// Threads of one node's executor. Work is cut statically, so who computes what is a function of (size, n)
// alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/range.h"

namespace shoal {

/// A fixed team. One thread at a time calls run; that thread is worker 0, so a pool of one has no thread of
/// its own. Idle workers spin for a few microseconds, as the next run of a step usually follows at once,
/// yield for a few more, then sleep on a futex: an idle pool costs nothing, and two nodes on one machine do
/// not fight for its cores.
class ThreadPool {
 public:
  using Work = absl::FunctionRef<void(int worker, int n)>;

  /// threads >= 1, counting the caller. Worker i runs on cpus[i] alone, or the i-th counted round and round;
  /// wherever the system likes where `cpus` is empty. The caller of run moves only by pin_caller().
  explicit ThreadPool(int threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /// Has this thread, which is going to call run, stay on worker 0's CPU. Threads that it starts afterwards
  /// would stay there, too.
  void pin_caller() const { pin(0); }

  /// Runs work(i, threads()) for every i, this thread being worker 0; returns when all are done. What they
  /// wrote is then visible. Work must neither throw nor call run.
  void run(Work work);

  /// run() over [0, size) cut by StaticPart in units of `unit`; empty parts are not called.
  void run_parts(int64_t size, int64_t unit, absl::FunctionRef<void(Range part)> work);

 private:
  void serve(int worker);
  void pin(int worker) const;

  const int threads_;
  const std::vector<int> cpus_;
  std::vector<std::thread> workers_;
  const Work* work_ = nullptr;        // Of the run in progress.
  std::atomic<int> round_{0};         // Counts runs; workers wait for it to move.
  std::atomic<int> unfinished_{0};    // Workers that have not finished the run in progress.
  std::atomic<bool> running_{false};  // Catches a second caller.
  std::atomic<bool> stopping_{false};
};

}  // namespace shoal
