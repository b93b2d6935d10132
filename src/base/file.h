// Files that are read whole.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace shoal {

/// The whole file. NotFound where there is none; InvalidArgument where it cannot be read (a folder, no
/// permission), or where it has more than `bytes_max` bytes, of which no more are read: a file from elsewhere
/// must not take all memory.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max);

}  // namespace shoal
