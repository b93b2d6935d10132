// Progress of long work: a bar that rewrites itself on a terminal, a line every two seconds elsewhere.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

namespace shoal {

/// Safe from several threads. Prints to stderr.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  /// Ends the line.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t done, int64_t total);

 private:
  const std::string what_;
  const bool terminal_;
  std::mutex mutex_;
  int shown_percent_ = -1;
  int64_t shown_ns_;
};

}  // namespace shoal
