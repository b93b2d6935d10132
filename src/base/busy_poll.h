// Waiting for what usually comes soon: spins, then blocks, and does not hold the core from whoever wants it.
#pragma once

#include <cstdint>
#include <thread>

#include "base/clock.h"

namespace shoal {

/// One wait. Waking a sleeping thread takes 50 us and more on a virtual machine, and its waker half of that,
/// so it pays to spin for as long as what is waited for usually takes. After a few microseconds every
/// pause gives way to whoever else wants the core: two nodes on one machine, or a server's other threads,
/// lose nothing to it.
class BusyPoll {
 public:
  /// Spins until `until_ns`, by NowNs().
  explicit BusyPoll(int64_t until_ns) : begin_ns_(NowNs()), until_ns_(until_ns) {}

  /// Passes a moment. False where the time is over: block now. Reading the clock also keeps the caller's loop
  /// from hammering the cache line that it watches.
  bool pause() {
    const int64_t now_ns = NowNs();
    if (now_ns >= until_ns_) return false;
    if (now_ns - begin_ns_ > kSpinNs) std::this_thread::yield();
    return true;
  }

 private:
  static constexpr int64_t kSpinNs = 5'000;

  const int64_t begin_ns_;
  const int64_t until_ns_;
};

}  // namespace shoal
