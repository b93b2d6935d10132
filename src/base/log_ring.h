// The last lines of this process's log, in memory, for whoever asks from elsewhere. What is in it was in the log: it has no
// secrets that the log does not have, and the log has none.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"

namespace shoal {

/// A line is cut behind so many bytes.
inline constexpr size_t kLoggedLineBytesMax = 2 << 10;
/// All lines together, their own overhead included.
inline constexpr int64_t kLogRingBytesMax = 256 << 10;

struct LoggedLine {
  uint64_t id = 0;      ///< Counted from 1 on, by process.
  int64_t unix_ms = 0;  ///< When, by this machine's clock.
  LogLevel level = LogLevel::kInfo;
  std::string text;  ///< With its name in brackets.
};

struct LogQuery {
  int64_t after_ms = 0;  ///< Lines that are later than this.
  LogLevel at_least = LogLevel::kDebug;
  int64_t bytes_max = kLogRingBytesMax;  ///< Where there are more, the newest.
};

/// Safe from any thread.
class LogRing {
 public:
  explicit LogRing(int64_t bytes_max = kLogRingBytesMax) : bytes_max_(bytes_max) {}

  void add(LogLevel level, std::string_view text, int64_t unix_ms);
  /// Oldest first.
  std::vector<LoggedLine> read(const LogQuery& query) const;

 private:
  static int64_t BytesOf(const LoggedLine& line);

  const int64_t bytes_max_;
  mutable std::mutex mutex_;  ///< Guards what follows.
  std::deque<LoggedLine> lines_;
  int64_t bytes_ = 0;
  uint64_t last_id_ = 0;
};

/// Of what this process has logged, as far as its level lets it.
std::vector<LoggedLine> RecentLog(const LogQuery& query);

/// "debug", "info", "warning", "error".
std::string_view Name(LogLevel level);
/// False for another name.
bool ParseLogLevel(std::string_view name, LogLevel& level);

}  // namespace shoal
