// Limits the rate of warnings that outsiders can cause.
#pragma once

#include <cstdint>
#include <mutex>
#include <string_view>

#include "base/clock.h"
#include "base/log.h"

namespace shoal {

/// Logs at most one warning per interval; the next one gives the number of dropped warnings. Thread-safe.
class LogThrottle {
 public:
  explicit LogThrottle(Duration interval) : interval_(interval) {}

  /// Whether the warning was logged.
  bool warn(std::string_view text) {
    int64_t left_out = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto now = Clock::now();
      if (now < next_) {
        ++left_out_;
        return false;
      }
      next_ = now + interval_;
      left_out = left_out_;
      left_out_ = 0;
    }
    if (left_out == 0) {
      LogWarning("{}", text);
    } else {
      LogWarning("{} ({} like it were dropped since the last one)", text, left_out);
    }
    return true;
  }

 private:
  const Duration interval_;
  std::mutex mutex_;
  Clock::time_point next_{};
  int64_t left_out_ = 0;
};

}  // namespace shoal
