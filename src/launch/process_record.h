// A process that was started and left to itself, told from any other that has its PID later: by the time at which it
// started, in ticks since the machine did, and by the boot of the machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

/// What a PID file says.
struct ProcessRecord {
  int pid = 0;
  uint64_t start_ticks = 0;  ///< As StartOfProcess() gives it.
  std::string boot_id;       ///< As BootId() gives it.
  int64_t started_unix = 0;  ///< For people.
  std::string binary;        ///< Hash of the program that was started.
  std::string command;       ///< Hash of its arguments and of the environment that it was given.
  bool operator==(const ProcessRecord&) const = default;
};

/// Of the process with this PID, as it is now. NotFound: there is none.
absl::StatusOr<ProcessRecord> IdentifyProcess(int pid);

enum class ProcessLife : uint8_t {
  kRunning,
  kEnded,  ///< Its PID is free, or its process waits for its parent to take note.
  kOther,  ///< Its PID has been given to another process, by this boot of the machine or a later one.
};
ProcessLife LifeOf(const ProcessRecord& record);

/// Sends SIGTERM, and SIGKILL to one that has not ended after `patience`; nothing to any process but this one. OK when
/// it has ended, or had before. DeadlineExceeded: it did not end. PermissionDenied: it is another user's.
absl::Status EndProcess(const ProcessRecord& record, Duration patience);

/// InvalidArgument, which names the file: it is not a PID file of ours. nullopt: there is no file.
absl::StatusOr<std::optional<ProcessRecord>> ReadPidFile(const std::string& path);
absl::StatusOr<ProcessRecord> ParseRecord(std::string_view text);
std::string FormatRecord(const ProcessRecord& record);
absl::Status WritePidFile(const std::string& path, const ProcessRecord& record);

}  // namespace shoal
