// Spinning before a wait blocks, for events that usually come soon. The core is yielded to any thread that
// wants it.
#pragma once

#include <cstdint>
#include <thread>

#include "base/clock.h"

namespace shoal {

/// One wait. Waking a sleeping thread takes 50 us or more on a virtual machine, and costs the waking thread
/// half of that, so it pays to spin for about as long as the event usually takes. After the first 5 us every
/// pause yields the core, so a second node on the machine and the server's other threads lose nothing.
class BusyPoll {
 public:
  /// Spins until `until_ns`, by NowNs().
  explicit BusyPoll(int64_t until_ns) : begin_ns_(NowNs()), until_ns_(until_ns) {}

  /// Pauses briefly. Returns false when the time is over and the caller should block. Reading the clock also
  /// keeps the caller's loop from hammering the cache line that it watches.
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
