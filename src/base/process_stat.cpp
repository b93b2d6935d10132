#include "base/process_stat.h"

#include <charconv>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/text.h"

namespace shoal {

absl::StatusOr<ProcessStat> ParseProcessStat(std::string_view text) {
  // "PID (NAME) STATE PPID ...": a name may have spaces and parentheses, so that its last one counts.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos || name_end + 2 > text.size()) {
    return InvalidArgument("/proc/PID/stat: expected a name in parentheses");
  }
  constexpr size_t kStartTime = 22 - 3;  // Fields behind the name begin with the third.
  const std::vector<std::string> fields = Split(text.substr(name_end + 2), ' ');
  if (fields.size() <= kStartTime || fields[0].size() != 1) {
    return InvalidArgument("/proc/PID/stat: expected at least 22 fields, found {}", fields.size() + 2);
  }
  ProcessStat stat{.state = fields[0][0]};
  const std::string& ticks = fields[kStartTime];
  const auto [end, error] = std::from_chars(ticks.data(), ticks.data() + ticks.size(), stat.start_ticks);
  if (error != std::errc() || end != ticks.data() + ticks.size()) {
    return InvalidArgument("/proc/PID/stat: expected a number as field 22, found '{}'", ticks);
  }
  return stat;
}

}  // namespace shoal
