// SHA-256, and comparisons that do not tell by their time where two values differ.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shoal {

/// 64 digits of hex.
std::string Sha256Hex(std::string_view bytes);

/// In time that depends on the lengths only.
bool SameInConstantTime(std::string_view a, std::string_view b);

/// So many bytes from the system's cryptographic generator, in hex.
std::string RandomHex(size_t bytes);

}  // namespace shoal
