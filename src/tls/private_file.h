// Files with secrets: written for their owner only, and refused where others may read them.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

/// Makes the file with mode 0600. AlreadyExists: there is one, which stays as it is. ResourceExhausted: no room.
absl::Status WritePrivateFile(const std::string& path, std::string_view text);

/// NotFound, or InvalidArgument where others may read it or it is longer than 1 MiB.
absl::StatusOr<std::string> ReadPrivateFile(const std::string& path);

}  // namespace shoal
