// Finds markers ("<tool_call>") in text that arrives byte by byte.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

/// Holds back what may become a marker. No marker may contain another one: the first that is complete counts.
class MarkerMatcher {
 public:
  explicit MarkerMatcher(std::vector<std::string> markers) : markers_(std::move(markers)) {}

  /// Takes the next byte. Returns the index of the marker that it completes, or -1. `released` gets the text
  /// that is no part of a marker.
  int next(char c, std::string& released);

  /// What is held back; afterwards nothing is.
  std::string take_held() { return std::exchange(held_, {}); }
  size_t held() const { return held_.size(); }
  const std::string& marker(int index) const { return markers_[static_cast<size_t>(index)]; }

 private:
  bool begins_marker(std::string_view text) const;

  std::vector<std::string> markers_;
  std::string held_;
};

/// Reads a marker where one of several must stand, without a search.
class MarkerReader {
 public:
  static constexpr int kMore = -1;    ///< The byte belongs to a marker that is not complete.
  static constexpr int kOther = -2;   ///< No marker begins with the byte; it was not taken.
  static constexpr int kBroken = -3;  ///< A marker had begun, and does not go on with the byte.

  /// Empty markers stand for none, and keep their index.
  explicit MarkerReader(std::vector<std::string> markers) : markers_(std::move(markers)) {}

  /// Takes the next byte. Returns the index of the marker that it completes, or one of the above.
  int next(char c);
  /// Whether a marker has begun.
  bool begun() const { return !held_.empty(); }
  /// Forgets the marker that has begun.
  void reset() { held_.clear(); }

 private:
  std::vector<std::string> markers_;
  std::string held_;
};

}  // namespace shoal
