#include "app/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/log.h"

namespace shoal {

ProgressBar::ProgressBar(std::string what) : what_(std::move(what)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && shown_percent_ >= 0) std::fputc('\n', stderr);
}

void ProgressBar::update(int64_t done, int64_t total) {
  if (total <= 0) return;
  const int percent = static_cast<int>(std::clamp<int64_t>(done * 100 / total, 0, 100));
  const std::lock_guard lock(mutex_);
  const int step = terminal_ ? 1 : 25;
  if (percent / step == shown_percent_ / step && shown_percent_ >= 0) return;
  shown_percent_ = percent;
  if (!terminal_) {
    LogInfo("{}: {} %", what_, percent);
    return;
  }
  constexpr int kWidth = 40;
  const int filled = percent * kWidth / 100;
  std::fprintf(stderr, "\r%s [%s%s] %3d %%", what_.c_str(), std::string(filled, '#').c_str(),
               std::string(kWidth - filled, ' ').c_str(), percent);
  std::fflush(stderr);
}

}  // namespace shoal
