// Runs another program and waits for it: a deadline, bounded output, no shell.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

struct SubprocessOptions {
  std::vector<std::string> argv;  ///< argv[0] is looked up in PATH.
  std::string_view input;         ///< Its standard input.
  /// Its standard input is closed when it has ended, rather than behind `input`: a program that watches it learns that
  /// we are gone.
  bool hold_input = false;
  Deadline deadline;
  size_t output_max =
      size_t{8} << 20;  ///< Bytes of standard output, or of one line where `on_line` takes them.
  /// Gets each line of standard output as it comes, without its end; until it returns false: then the program is ended.
  /// Empty: lines are kept for the result.
  std::function<bool(std::string_view line)> on_line;
};

struct SubprocessResult {
  int exit_code = 0;   ///< Minus the number of the signal that ended it.
  std::string output;  ///< Standard output; empty where on_line took it.
  std::string errors;  ///< The last 16 KiB of standard error.
};

/// Any exit code is a result. NotFound: there is no such program. DeadlineExceeded: it was ended at the deadline.
/// ResourceExhausted: more output than output_max. Unavailable: the system starts no process.
absl::StatusOr<SubprocessResult> RunSubprocess(const SubprocessOptions& options);

/// A process that goes on when we end: in a session of its own, without a terminal, its input empty.
struct DetachedProcess {
  std::vector<std::string> argv;         ///< argv[0] is a path.
  std::vector<std::string> environment;  ///< "NAME=VALUE", all of it.
  std::string folder;                    ///< Its current folder.
  std::string log;                       ///< Gets standard output and standard error, appended.
};
/// Returns its PID. PermissionDenied, NotFound or Unavailable, which say what could not be done.
absl::StatusOr<int> StartDetached(const DetachedProcess& process);

}  // namespace shoal
