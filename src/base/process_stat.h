// What Linux says of a process in /proc/PID/stat.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// The name of the process, which is in the text, too, may hold anything.
struct ProcessStat {
  char state = '?';
  uint64_t start_ticks = 0;  ///< Field 22: when it was started, since the machine was.
};
/// InvalidArgument for any other text.
absl::StatusOr<ProcessStat> ParseProcessStat(std::string_view text);

}  // namespace shoal
