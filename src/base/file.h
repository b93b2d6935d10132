// Reading and writing whole files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// The content of a file. Returns NotFound if there is none, InvalidArgument if it cannot be read (a folder,
/// no permission) or has more than `bytes_max` bytes. Reads at most one byte beyond `bytes_max`: a file from
/// elsewhere must not fill the memory.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t bytes_max);

/// Writes `text` and a newline, under another name that is then renamed, so that no reader sees half a file.
/// Returns ResourceExhausted if writing or renaming fails.
absl::Status WriteTextFile(const std::string& path, std::string_view text);

}  // namespace shoal
