// The logs of processes that run elsewhere: their last lines, and what is appended.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_handle.h"

namespace shoal {

struct LogTail {
  std::vector<std::string> lines;  ///< Without their ends. The last one may be yet to be completed.
  int64_t end = 0;                 ///< Behind the last one that is complete.
};
/// The last `lines` lines of a file from byte `from` on, out of its last 4 MiB; none where there is no file.
LogTail TailOf(const std::string& path, int64_t lines, int64_t from = 0);

/// 0 where there is no file.
int64_t SizeOf(const std::string& path);

/// Follows a file that others append to, cut or replace.
class LogFollower {
 public:
  /// Begins at byte `from`, such as LogTail::end, or at the begin of another file that took its place; none: at its
  /// end, or at its begin where there is no file yet.
  explicit LogFollower(std::string path, std::optional<int64_t> from = std::nullopt);
  /// Calls `take` for each line that was completed since the last call.
  void poll(const std::function<void(std::string_view line)>& take);

 private:
  std::string path_;
  FileHandle file_;
  int64_t at_ = 0;
  uint64_t inode_ = 0;
  std::string rest_;
};

}  // namespace shoal
