// Parsing and formatting of text, for flags and messages.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// "8GiB", "512MiB", "1.5GB", "4096" -> bytes. InvalidArgument names the text and gives examples of valid
/// sizes.
absl::StatusOr<int64_t> ParseBytes(std::string_view text);

/// 1536 -> "1.5 KiB".
std::string FormatBytes(int64_t bytes);

/// The candidate with the smallest edit distance to `word`; "" if every distance is above max(2, half of its
/// length).
std::string NearestWord(std::string_view word, const std::vector<std::string>& candidates);

/// Splits at `separator`; empty text gives an empty list.
std::vector<std::string> Split(std::string_view text, char separator);

std::string Join(const std::vector<std::string>& parts, std::string_view separator);

/// An address "HOST:PORT"; an IPv6 host stands in brackets, "[::1]:80".
struct HostPort {
  std::string host;
  int port = 0;
  std::string to_string() const;
};
/// Returns InvalidArgument for any other text.
absl::StatusOr<HostPort> ParseHostPort(std::string_view text);

}  // namespace shoal
