// The only place that reads a clock. Every wait takes a Deadline.
#pragma once

#include <chrono>
#include <cstdint>

namespace shoal {

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::nanoseconds;

Duration FromSeconds(double seconds);
double SecondsOf(Duration duration);

/// A point in (steady) time after which a wait gives up.
struct Deadline {
  Clock::time_point at;

  static Deadline after(Duration d) { return {Clock::now() + d}; }
  static Deadline after_ms(int64_t ms) { return after(std::chrono::milliseconds(ms)); }
  /// The earlier of the two.
  static Deadline min(Deadline a, Deadline b) { return a.at < b.at ? a : b; }

  bool expired() const { return Clock::now() >= at; }
  /// Time left, never negative.
  Duration remaining() const;
  int64_t remaining_ms() const { return std::chrono::ceil<std::chrono::milliseconds>(remaining()).count(); }
};

/// Monotonic nanoseconds, for measuring durations.
int64_t NowNs();

/// `deadline` on the wall clock, for interfaces whose waits take wall-clock times (gRPC).
std::chrono::system_clock::time_point SystemTime(Deadline deadline);

/// Seconds since the Unix epoch, for timestamps that people or protocols read.
int64_t UnixSeconds();

}  // namespace shoal
