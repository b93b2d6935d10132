// SHA-256, its hex, and comparisons that do not tell by their time where two values differ.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// 64 digits of hex.
std::string Sha256Hex(std::string_view bytes);
/// NotFound, PermissionDenied or Unavailable: the file cannot be read.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

std::string ToHex(std::string_view bytes);
/// InvalidArgument for anything but pairs of 0-9 and a-f.
absl::StatusOr<std::string> FromHex(std::string_view hex);

/// In time that depends on the lengths only.
bool SameInConstantTime(std::string_view a, std::string_view b);

/// So many bytes from the system's cryptographic generator, in hex.
std::string RandomHex(size_t bytes);

}  // namespace shoal
