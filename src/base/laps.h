// How long the parts of something took, for the log.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace shoal {

/// Begins with its constructor; each part ends where the next one begins.
class Laps {
 public:
  void end(std::string_view part) {
    const int64_t now_ns = NowNs();
    text_ += fmt::format("{}{} {:.1f} ms", text_.empty() ? "" : ", ", part,
                         static_cast<double>(now_ns - since_ns_) / 1e6);
    since_ns_ = now_ns;
  }
  /// "close 3.1 ms, open 20.4 ms"
  const std::string& text() const { return text_; }

 private:
  int64_t since_ns_ = NowNs();
  std::string text_;
};

}  // namespace shoal
