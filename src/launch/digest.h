// SHA-256 (FIPS 180-4), as hex: what tells whether a file there is the file here.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

std::string Sha256(std::string_view bytes);
/// Errors as SystemError.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

std::string ToHex(std::string_view bytes);
/// InvalidArgument for anything but pairs of 0-9 and a-f.
absl::StatusOr<std::string> FromHex(std::string_view hex);

}  // namespace shoal
