#include "cpu/pool.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/busy_poll.h"
#include "base/check.h"
#include "base/clock.h"
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

/// A thread's share has at least so many chunks, where there are units enough: so all threads end together.
constexpr int64_t kChunksPerShare = 16;
/// Runs shorter than this say little of a thread's speed.
constexpr int64_t kTellingNs = 50'000;
/// The weight of a run in the speeds: a neighbour that takes a core for a moment moves no share.
constexpr double kWeightOfRun = 1.0 / 32;
/// Threads that differ by less have equal shares, which keeps what a thread has in its cache.
constexpr double kLikeEnough = 0.1;

constexpr uint64_t Pack(Range chunks) {
  return static_cast<uint64_t>(chunks.begin) << 32 | static_cast<uint64_t>(chunks.end);
}
constexpr Range Unpack(uint64_t word) {
  return {static_cast<int64_t>(word >> 32), static_cast<int64_t>(word & 0xffffffff)};
}

/// Units of a chunk: a power of two, so that where units are tiles, kernels that take two or four of them find whole ones.
int64_t UnitsOfChunk(int64_t units, int threads) {
  int64_t chunk = 1;
  while (2 * chunk * kChunksPerShare * threads <= units) chunk *= 2;
  return chunk;
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::vector<int> cpus) : threads_(threads), cpus_(std::move(cpus)) {
  SHOAL_CHECK_GE(threads, 1);
  shares_ = std::make_unique<Share[]>(static_cast<size_t>(threads));
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
  const int64_t units = (size + unit - 1) / unit;
  if (threads_ == 1 || units <= threads_) {
    return run([&](int worker, int n) {
      const Range part = StaticRange(size, unit, worker, n);
      if (!part.empty()) work(part);
    });
  }
  const int64_t chunk = UnitsOfChunk(units, threads_) * unit;
  deal((size + chunk - 1) / chunk);
  run([&](int worker, int /*n*/) {
    work_off(worker, [&](Range chunks) {
      work(Range{chunks.begin * chunk, std::min(chunks.end * chunk, size)});
    });
  });
  learn_speeds();
}

double ThreadPool::sum_of_unlike_speeds() const {
  double sum = 0;
  double least = shares_[0].speed;
  double most = least;
  for (int i = 0; i < threads_; ++i) {
    const double speed = shares_[static_cast<size_t>(i)].speed;
    sum += speed;
    least = std::min(least, speed);
    most = std::max(most, speed);
  }
  return most - least < kLikeEnough * most ? 0 : sum;
}

double ThreadPool::share(int worker) const {
  const double sum = sum_of_unlike_speeds();
  return sum == 0 ? 1.0 / threads_ : shares_[static_cast<size_t>(worker)].speed / sum;
}

void ThreadPool::deal(int64_t chunks) {
  const double sum = sum_of_unlike_speeds();
  double before = 0;
  int64_t begin = 0;
  for (int i = 0; i < threads_; ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    before += sum == 0 ? 1.0 / threads_ : share.speed / sum;
    int64_t end = chunks;
    if (i + 1 < threads_) end = std::min<int64_t>(end, std::lround(before * static_cast<double>(chunks)));
    share.left.store(Pack({begin, end}), std::memory_order_relaxed);
    begin = end;
  }
}

Range ThreadPool::Take(Share& share, End from) {
  uint64_t word = share.left.load(std::memory_order_relaxed);
  while (true) {
    const Range left = Unpack(word);
    if (left.empty()) return {};
    const int64_t half = (left.size() + 1) / 2;
    const int64_t cut = from == End::kFirst ? left.begin + half : left.end - half;
    const Range before{left.begin, cut};
    const Range behind{cut, left.end};
    const auto& [taken, rest] = from == End::kFirst ? std::pair(before, behind) : std::pair(behind, before);
    if (share.left.compare_exchange_weak(word, Pack(rest), std::memory_order_relaxed)) return taken;
  }
}

void ThreadPool::work_off(int worker, absl::FunctionRef<void(Range chunks)> work) {
  Share& own = shares_[static_cast<size_t>(worker)];
  const int64_t begin_ns = NowNs();
  own.chunks = 0;
  const auto take = [&](Share& from, End end) {
    for (Range chunks = Take(from, end); !chunks.empty(); chunks = Take(from, end)) {
      work(chunks);
      own.chunks += chunks.size();
    }
  };
  take(own, End::kFirst);
  for (int i = 1; i < threads_; ++i) take(shares_[static_cast<size_t>((worker + i) % threads_)], End::kLast);
  own.busy_ns = NowNs() - begin_ns;
}

void ThreadPool::learn_speeds() {
  double mean = 0;
  for (int i = 0; i < threads_; ++i) {
    const Share& share = shares_[static_cast<size_t>(i)];
    if (share.busy_ns < kTellingNs || share.chunks == 0) return;
    mean += static_cast<double>(share.chunks) / static_cast<double>(share.busy_ns) / threads_;
  }
  for (int i = 0; i < threads_; ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    const double speed = static_cast<double>(share.chunks) / static_cast<double>(share.busy_ns) / mean;
    share.speed += kWeightOfRun * (speed - share.speed);
  }
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
