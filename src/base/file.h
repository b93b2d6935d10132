// Files that are read or written whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// The whole file. NotFound where there is none; InvalidArgument where it cannot be read (a folder, no
/// permission), or where it has more than `bytes_max` bytes, of which no more are read: a file from elsewhere
/// must not take all memory.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max);

/// `text` and a line end. Written under another name first: nobody sees half a file. ResourceExhausted where
/// that fails.
absl::Status WriteTextFile(const std::string& path, std::string_view text);

}  // namespace shoal
