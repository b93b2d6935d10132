// Another process of this machine, by its PID: when it was started, and a handle by which it is ended. What systems do
// each in their own way is in other_process_linux.cpp and other_process_macos.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/file_handle.h"

namespace shoal {

/// Names the time from one start of the machine to the next.
absl::StatusOr<std::string> BootId();

/// When a process was started: on Linux in ticks since the machine was (field 22 of /proc/PID/stat), on macOS in
/// microseconds since 1970. NotFound: there is none, or it has ended and its parent has not taken note.
absl::StatusOr<uint64_t> StartOfProcess(int pid);

/// To whoever has the PID when it is opened.
class ProcessHandle {
 public:
  /// Nothing where no process has it, or the system gives no handle (Linux before 5.3).
  static std::optional<ProcessHandle> Open(int pid);

  /// 0, or an errno. A process that has ended takes every signal.
  int send(int signal) const;
  /// Waits for its end, at most so long. Not all systems tell at once, so ask again, briefly each time.
  bool wait_for_end(Duration longest) const;

 private:
  ProcessHandle(int pid, FileHandle file) : pid_(pid), file_(std::move(file)) {}

  [[maybe_unused]] int pid_;  // Linux asks by the file alone.
  FileHandle file_;
};

}  // namespace shoal
