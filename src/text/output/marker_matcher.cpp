#include "text/output/marker_matcher.h"

#include <algorithm>

namespace shoal {

int MarkerMatcher::next(char c, std::string& released) {
  held_ += c;
  size_t begin = 0;
  while (begin < held_.size() && !begins_marker(std::string_view(held_).substr(begin))) ++begin;
  if (begin > 0) {
    released.append(held_, 0, begin);
    held_.erase(0, begin);
  }
  if (held_.empty()) return -1;
  const auto found = std::ranges::find(markers_, held_);
  if (found == markers_.end()) return -1;
  held_.clear();
  return static_cast<int>(found - markers_.begin());
}

int MarkerReader::next(char c) {
  held_ += c;
  bool begins = false;
  for (size_t i = 0; i < markers_.size(); ++i) {
    if (markers_[i].empty()) continue;
    if (markers_[i] == held_) {
      held_.clear();
      return static_cast<int>(i);
    }
    begins |= markers_[i].starts_with(held_);
  }
  if (begins) return kMore;
  const bool alone = held_.size() == 1;
  held_.clear();
  return alone ? kOther : kBroken;
}

bool MarkerMatcher::begins_marker(std::string_view text) const {
  return std::ranges::any_of(markers_, [&](const std::string& marker) { return marker.starts_with(text); });
}

}  // namespace shoal
