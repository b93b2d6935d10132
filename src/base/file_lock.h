// Locks between processes: a file that one of them holds, until it lets go or ends, however it ends.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/file_handle.h"

namespace shoal {

struct FileLock {
  FileHandle file;    ///< The lock goes with it.
  bool held = false;  ///< False: another process, or another handle of this one, has it.
};

/// Tries to take the lock of the file at `path`, which is made, for its owner only, where there is none; a symbolic
/// link is not followed. Errors as SystemError.
absl::StatusOr<FileLock> TryLockFile(const std::string& path);

}  // namespace shoal
