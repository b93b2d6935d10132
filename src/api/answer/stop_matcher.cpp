#include "api/answer/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace shoal {

std::string StopMatcher::push(std::string_view piece) {
  if (stopped()) return "";
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    matched_ = stop;
  }
  if (stopped()) return std::exchange(held_, "").substr(0, first);
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(held_.size(), stop.size() - 1); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string free = held_.substr(0, held_.size() - keep);
  held_.erase(0, free.size());
  return free;
}

std::string StopMatcher::flush() { return std::exchange(held_, ""); }

}  // namespace shoal
