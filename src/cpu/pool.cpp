#include "cpu/pool.h"

#include <utility>

#include "base/busy_poll.h"
#include "base/check.h"
#include "base/log.h"
#include "base/process.h"
#include "cpu/affinity.h"

namespace shoal {
namespace {

// Longer than the gap between two runs of a step, so that workers do not sleep within a step.
constexpr int64_t kPollNs = 60'000;

// Returns when `value` differs from `old`.
void WaitForChange(const std::atomic<int>& value, int old) {
  BusyPoll poll(NowNs() + kPollNs);
  while (value.load(std::memory_order_acquire) == old) {
    if (!poll.pause()) value.wait(old, std::memory_order_acquire);
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::vector<int> cpus) : threads_(threads), cpus_(std::move(cpus)) {
  SHOAL_CHECK_GE(threads, 1);
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(Work work) {
  SHOAL_CHECK(!running_.exchange(true, std::memory_order_acquire));
  if (threads_ > 1) {
    work_ = &work;
    unfinished_.store(threads_ - 1, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  work(0, threads_);
  note_progress();
  for (int left = unfinished_.load(std::memory_order_acquire); left != 0;
       left = unfinished_.load(std::memory_order_acquire)) {
    WaitForChange(unfinished_, left);
  }
  running_.store(false, std::memory_order_release);
}

void ThreadPool::run_ranges(int64_t size, int64_t unit, absl::FunctionRef<void(Range part)> work) {
  run([&](int worker, int n) {
    const Range part = StaticRange(size, unit, worker, n);
    if (!part.empty()) work(part);
  });
}

void ThreadPool::pin(int worker) const {
  PreferFastCores();
  if (cpus_.empty()) return;
  const int cpu = cpus_[static_cast<size_t>(worker) % cpus_.size()];
  if (StayOnCpu(cpu)) return;
  // The CPU was allowed when it was chosen and has been taken away since. That is slower, not wrong.
  LogWarning("thread {} cannot be pinned to CPU {}; the system chooses where it runs", worker, cpu);
}

void ThreadPool::serve(int worker) {
  NameThread("compute");
  pin(worker);
  int round = 0;
  while (true) {
    WaitForChange(round_, round);
    ++round;  // No round is skipped: the next one begins only after all workers finished this one.
    if (stopping_.load(std::memory_order_acquire)) return;
    (*work_)(worker, threads_);
    note_progress();
    if (unfinished_.fetch_sub(1, std::memory_order_release) == 1) unfinished_.notify_one();
  }
}

}  // namespace shoal
