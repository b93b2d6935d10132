// What one thread waits for that empties one inbox or several: each of them tells it what it got, and what fills
// them from this very thread is polled here, once for all.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/clock.h"

namespace shoal {

/// What fills inboxes from the thread that waits for them.
class InboxSource {
 public:
  virtual ~InboxSource() = default;

  enum class Polled : uint8_t {
    kNothing,  ///< Nothing came until the deadline, an interrupt() or `enough`.
    kHandled,  ///< Something did, and may have been pushed.
    kTaken,    ///< Another thread is polling: returned at once.
  };
  /// Handles one thing that has arrived, waiting until the deadline for it; or nothing where `enough()`
  /// holds, which is asked once, when no interrupt() can be missed any more.
  virtual Polled poll(Deadline deadline, absl::FunctionRef<bool()> enough) = 0;
  /// Ends a poll() that waits. From any thread.
  virtual void interrupt() = 0;
};

/// poll() and wait() have one caller at a time; the rest is safe from any thread.
class Wakeup {
 public:
  /// From now on `source` is polled, until as many calls of detach() as of attach(). A wait that blocks reads
  /// one source; several at once, of several endpoints in one process, are then read by their own threads.
  void attach(std::shared_ptr<InboxSource> source);
  void detach(const InboxSource* source);

  /// There is something to look at. Ends a wait().
  void announce();
  /// How often that was called. Read before looking, it tells wait() what was not seen.
  uint64_t announced() const { return announced_.load(std::memory_order_acquire); }
  /// An event was handed out: the next one may come soon, which makes the next wait() spin first.
  void handed_out() { spins_next_.store(true, std::memory_order_relaxed); }

  /// Takes from the sources what is there already.
  void poll();
  /// Until announced() differs from `seen`, or `until`: spins, then blocks.
  void wait(uint64_t seen, Clock::time_point until);

 private:
  struct Attached {
    std::shared_ptr<InboxSource> source;
    int times = 0;
  };
  using Sources = std::vector<Attached>;

  std::shared_ptr<const Sources> sources() const;
  void block(uint64_t seen, Clock::time_point until);

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::shared_ptr<const Sources> sources_ = std::make_shared<const Sources>();  // Replaced, never changed.
  std::atomic<uint64_t> announced_{0};                                          // Written with the lock held.
  std::atomic<bool> spins_next_{false};
  InboxSource* blocked_in_ = nullptr;  // What an announcement must interrupt.
};

}  // namespace shoal
