#include "app/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/log_format.h"

namespace shoal {

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1 && !LogWritesJson()), shown_ns_(NowNs()) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && shown_percent_ >= 0) std::fputc('\n', stderr);
}

void ProgressBar::update(int64_t done, int64_t total) {
  if (total <= 0) return;
  const int percent = static_cast<int>(std::clamp<int64_t>(done * 100 / total, 0, 100));
  const std::lock_guard lock(mutex_);
  if (percent == shown_percent_) return;
  if (!terminal_) {
    constexpr int64_t kPauseNs = 2'000'000'000;
    if (NowNs() - shown_ns_ < kPauseNs) return;
    shown_ns_ = NowNs();
    LogInfo("{}: {} %", what_, percent);
    return;
  }
  shown_percent_ = percent;
  constexpr int kWidth = 40;
  const int filled = percent * kWidth / 100;
  std::fprintf(stderr, "\r%s [%s%s] %3d %%", what_.c_str(), std::string(filled, '#').c_str(),
               std::string(kWidth - filled, ' ').c_str(), percent);
  std::fflush(stderr);
}

}  // namespace shoal
