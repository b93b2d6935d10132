// Files with secrets: written for their owner only, and refused where others may read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

/// A file with certificates or their keys has no more.
inline constexpr int64_t kPemBytesMax = 1 << 20;

/// Makes the file with mode 0600. AlreadyExists: there is one, which stays as it is. ResourceExhausted: no room.
absl::Status WritePrivateFile(const std::string& path, std::string_view text);

/// As ReadTextFile; InvalidArgument also where others may read it.
absl::StatusOr<std::string> ReadPrivateFile(const std::string& path, int64_t bytes_max = kPemBytesMax);

}  // namespace shoal
