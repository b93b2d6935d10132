// Finds stop strings in a text that comes in pieces, and lets go of nothing that could still become part of
// one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shoal {

class StopMatcher {
 public:
  /// `stops`: none empty.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// The text that `piece` sets free. Once a stop string is complete: the text before the first one, and
  /// stopped() holds.
  std::string push(std::string_view piece);

  /// The end of the text: what was held back is no stop string after all. "" once stopped.
  std::string flush();

  bool stopped() const { return !matched_.empty(); }
  /// The stop string that was found; "" before.
  const std::string& matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // The longest end of the text that is the beginning of a stop string.
  std::string matched_;
};

}  // namespace shoal
