#include "wire/grpc/loop.h"

#include <grpcpp/alarm.h>

#include <limits>

#include "base/log.h"
#include "wire/grpc/message.h"

namespace shoal {
namespace {

// So long nobody may poll before the keeper does. An executor polls before each layer, some milliseconds at
// most in decoding; in between nothing needs an answer so soon, and each look of the keeper takes some 10 us
// from the executor's core.
constexpr int64_t kAbsentNs = 10'000'000;
// How often the keeper sees whether an executor that was asleep in the queue has gone to compute. Pings have
// seconds.
constexpr Duration kLook = std::chrono::milliseconds(100);
// How long the keeper stays in the queue at most, where an executor finds it taken when it comes back.
constexpr int64_t kKeepMs = 50;
// How long a wait stays in the queue without looking whether another thread has brought about what it is for.
constexpr Duration kSlice = std::chrono::milliseconds(2);

bool Never() { return false; }

constexpr int64_t kForeverNs = std::numeric_limits<int64_t>::max();

/// Ends a poll() of another thread. Frees itself.
struct Knock {
  explicit Knock(GrpcLoop& loop) : ended([&loop](bool) { loop.leave(); }) {}
  grpc::Alarm alarm;
  Operation ended;
};

}  // namespace

GrpcLoop::GrpcLoop(std::unique_ptr<grpc::ServerCompletionQueue> queue)
    : queue_(std::move(queue)), keeper_([this] { keep(); }) {}

GrpcLoop::~GrpcLoop() {
  // A queue with operations in flight can neither be shut down nor freed.
  if (inside_ > 0) (void)queue_.release();
}

bool GrpcLoop::enter() {
  const std::lock_guard lock(mutex_);
  if (closing_) return false;
  ++inside_;
  return true;
}

void GrpcLoop::leave() {
  const std::lock_guard lock(mutex_);
  if (--inside_ == 0) changed_.notify_all();
}

GrpcLoop::Polled GrpcLoop::poll_queue(Deadline deadline, absl::FunctionRef<bool()> enough) {
  if (polled_.exchange(true, std::memory_order_acquire)) return Polled::kTaken;
  Polled result = Polled::kNothing;
  if (!enough()) {
    for (const auto& begin : std::exchange(later_, {})) begin();
    void* tag = nullptr;
    bool ok = false;
    const Duration wait = deadline.remaining();
    const auto until = wait > Duration::zero() ? After(wait) : gpr_time_0(GPR_CLOCK_MONOTONIC);
    const auto next = queue_->AsyncNext(&tag, &ok, until);
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      Operation::End(tag, ok);
      result = Polled::kHandled;
    } else if (next == grpc::CompletionQueue::SHUTDOWN) {
      const std::lock_guard lock(mutex_);
      drained_ = true;
      changed_.notify_all();
    }
  }
  polled_.store(false, std::memory_order_release);
  return result;
}

GrpcLoop::Polled GrpcLoop::poll(Deadline deadline, absl::FunctionRef<bool()> enough) {
  attended_ns_.store(deadline.expired() ? NowNs() : kForeverNs, std::memory_order_relaxed);
  const Polled result = poll_queue(deadline, enough);
  attended_ns_.store(NowNs(), std::memory_order_relaxed);
  return result;
}

void GrpcLoop::interrupt() {
  if (!enter()) return;  // What is being closed ends every poll.
  const auto knock = std::make_shared<Knock>(*this);
  knock->alarm.Set(queue_.get(), gpr_time_0(GPR_CLOCK_MONOTONIC), knock->ended.begin(knock));
}

void GrpcLoop::drain() {
  while (poll_queue(Deadline{}, Never) == Polled::kHandled) {
  }
}

bool GrpcLoop::wait(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, Deadline deadline,
                    absl::FunctionRef<bool()> settled) {
  while (!settled()) {
    if (deadline.expired()) return false;
    const Deadline slice = Deadline::min(deadline, Deadline::after(kSlice));
    lock.unlock();
    const Polled polled = poll_queue(slice, Never);
    lock.lock();
    if (polled == Polled::kTaken) changed.wait_until(lock, slice.at, settled);
  }
  return true;
}

void GrpcLoop::keep() {
  std::unique_lock lock(mutex_);
  while (!drained_) {
    const int64_t attended_ns = attended_ns_.load(std::memory_order_relaxed);
    const Duration pause = attended_ns == kForeverNs ? kLook : Duration(attended_ns + kAbsentNs - NowNs());
    if (!closing_ && pause > Duration::zero()) {
      changed_.wait_for(lock, pause, [this] { return closing_; });
      continue;
    }
    lock.unlock();
    const Polled polled = poll_queue(Deadline::after_ms(kKeepMs), Never);
    lock.lock();
    if (polled == Polled::kTaken) changed_.wait_for(lock, std::chrono::milliseconds(1));
  }
}

void GrpcLoop::close(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (std::exchange(closing_, true)) return;
  changed_.notify_all();
  const bool ended = changed_.wait_until(lock, deadline.at, [this] { return inside_ == 0; });
  if (ended) {
    lock.unlock();
    queue_->Shutdown();
  } else {
    LogWarning("{} streams did not end in time", inside_);
    drained_ = true;
    lock.unlock();
  }
  keeper_.join();
}

}  // namespace shoal
