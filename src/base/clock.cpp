#include "base/clock.h"

#include <algorithm>

namespace shoal {

Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

double SecondsOf(Duration duration) { return std::chrono::duration<double>(duration).count(); }

Duration Deadline::remaining() const { return std::max(Duration::zero(), Duration(at - Clock::now())); }

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
}

std::chrono::system_clock::time_point SystemTime(Deadline deadline) {
  using SystemClock = std::chrono::system_clock;
  return SystemClock::now() + std::chrono::duration_cast<SystemClock::duration>(deadline.remaining());
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace shoal
