// A token for `shoal worker --join`: where the coordinator is, and the cluster's key. Who has it has the key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

inline constexpr int64_t kJoinTokenBytesMax = 1 << 14;

struct JoinToken {
  std::vector<std::string> addresses;  ///< HOST:PORT of one coordinator; at least one.
  std::string key;                     ///< The bytes of the key file, without trailing line ends.
  std::string authority =
      {};  ///< DER of the cluster's authority, of which a worker gets its certificate; "": it has one.
  bool operator==(const JoinToken&) const = default;
};

/// "shoal1_", or "shoal2_" with an authority, and letters, digits, - and _: safe in a shell, and in a URL.
std::string FormatJoinToken(const JoinToken& token);

/// Whether the text is meant as a token: it may still be cut off.
bool IsJoinToken(std::string_view text);

/// InvalidArgument for any text that FormatJoinToken did not make, such as a token that was cut off or mistyped. Does not
/// repeat the text.
absl::StatusOr<JoinToken> ParseJoinToken(std::string_view text);

}  // namespace shoal
