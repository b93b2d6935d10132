#include "base/log_ring.h"

#include <algorithm>
#include <array>

namespace shoal {
namespace {

constexpr std::array<std::string_view, 4> kLevelNames = {"debug", "info", "warning", "error"};

}  // namespace

int64_t LogRing::BytesOf(const LoggedLine& line) {
  return static_cast<int64_t>(sizeof(LoggedLine) + line.text.size());
}

void LogRing::add(LogLevel level, std::string_view text, int64_t unix_ms) {
  LoggedLine line{
      .unix_ms = unix_ms, .level = level, .text = std::string(text.substr(0, kLoggedLineBytesMax))};
  const std::lock_guard lock(mutex_);
  line.id = ++last_id_;
  bytes_ += BytesOf(line);
  lines_.push_back(std::move(line));
  while (bytes_ > bytes_max_ && !lines_.empty()) {
    bytes_ -= BytesOf(lines_.front());
    lines_.pop_front();
  }
}

std::vector<LoggedLine> LogRing::read(const LogQuery& query) const {
  std::vector<LoggedLine> found;
  int64_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    for (auto line = lines_.rbegin(); line != lines_.rend(); ++line) {
      if (line->level < query.at_least || line->unix_ms <= query.after_ms) continue;
      bytes += BytesOf(*line);
      if (bytes > query.bytes_max) break;
      found.push_back(*line);
    }
  }
  std::ranges::reverse(found);
  return found;
}

std::string_view Name(LogLevel level) { return kLevelNames[static_cast<size_t>(level)]; }

bool ParseLogLevel(std::string_view name, LogLevel& level) {
  const auto found = std::ranges::find(kLevelNames, name);
  if (found == kLevelNames.end()) return false;
  level = static_cast<LogLevel>(found - kLevelNames.begin());
  return true;
}

}  // namespace shoal
