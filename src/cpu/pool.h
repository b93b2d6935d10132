// The threads of one node's executor. Work is cut into chunks at fixed boundaries: which thread computes a chunk depends
// on how fast the threads are, and changes no bit.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/range.h"

namespace shoal {

/// A fixed team of threads. One thread at a time calls run() and is worker 0, so a pool of one has no thread
/// of its own. Idle workers spin for a few microseconds, because the next run of a step usually follows at
/// once, then yield, then sleep on a futex. So an idle pool costs nothing, and two nodes on one machine do
/// not fight for its cores.
class ThreadPool {
 public:
  using Work = absl::FunctionRef<void(int worker, int n)>;

  /// threads >= 1, counting the caller. Worker i is pinned to cpus[i % cpus.size()], or to none if `cpus` is
  /// empty. The caller of run() is pinned only by pin_caller().
  explicit ThreadPool(int threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /// Moves as work gets done: when a worker ends its part of a run, and wherever a long part says so. Safe from any thread.
  uint64_t progress() const { return progress_.load(std::memory_order_relaxed); }
  /// A thread within a run has done some of its part; worth a call after some milliseconds of work, not more often.
  void note_progress() { progress_.fetch_add(1, std::memory_order_relaxed); }

  /// Pins the calling thread, which will call run(), to the CPU of worker 0. Threads that it starts
  /// afterwards inherit the pinning.
  void pin_caller() const { pin(0); }

  /// Runs work(i, threads()) for every i, the calling thread being worker 0. Returns when all are done, and
  /// then sees what they wrote. `work` must neither throw nor call run().
  void run(Work work);

  /// Runs work(part) for parts that tile [0, size), cut at multiples of `unit`. Each thread begins with a
  /// contiguous share, in proportion to its speed in earlier runs. It takes half of what is left of its share at a time,
  /// then takes from the ends of the others' shares. Where there are no more units than threads, each has one at most.
  void run_ranges(int64_t size, int64_t unit, absl::FunctionRef<void(Range part)> work);

  /// The part of a range that a thread begins with; they add up to 1. Equal until threads differ by more than a tenth.
  double share(int worker) const;

 private:
  /// What is left of a worker's share: chunks [begin, end), in one word, since others take from it.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
    int64_t chunks = 0;   // That the worker did in the current run, its own and others'.
    int64_t busy_ns = 0;  // In which it did them.
    double speed = 1;     // Relative to the others', over the runs so far.
  };
  /// Half of the chunks that are left of a share, its first or its last ones; or none.
  enum class End : uint8_t { kFirst, kLast };
  static Range Take(Share& share, End from);

  void serve(int worker);
  void pin(int worker) const;
  /// 0: threads are so alike that their shares are equal.
  double sum_of_unlike_speeds() const;
  /// Deals out [0, chunks).
  void deal(int64_t chunks);
  /// Does chunks until none is left.
  void work_off(int worker, absl::FunctionRef<void(Range chunks)> work);
  void learn_speeds();

  const int threads_;
  const std::vector<int> cpus_;
  std::unique_ptr<Share[]> shares_;  // One per worker.
  std::vector<std::thread> workers_;
  const Work* work_ = nullptr;        // Of the current run.
  std::atomic<int> round_{0};         // Counts runs; workers wait for it to change.
  std::atomic<int> unfinished_{0};    // Workers that have not finished the current run.
  std::atomic<bool> running_{false};  // Catches a second caller.
  std::atomic<uint64_t> progress_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace shoal
