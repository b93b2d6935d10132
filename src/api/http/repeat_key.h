// What a client says of a request that it may send again: the header Idempotency-Key.
// Source: draft-ietf-httpapi-idempotency-key-header.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>

namespace shoal {

struct HttpRequest;

/// 128 bits of a hash (XXH3).
using Digest = std::array<uint64_t, 2>;

/// Tells a request that is sent again from all others.
struct RepeatKey {
  Digest key{};      ///< Of its Idempotency-Key, its caller and its path: keys of callers are apart.
  Digest content{};  ///< Of its body: a key is for one body.
  auto operator<=>(const RepeatKey&) const = default;
};

inline constexpr size_t kIdempotencyKeyBytesMax = 255;

/// The key of a request whose body is decoded; nothing where the client says none. An error, for people, where it is
/// empty, too long or not printable.
std::expected<std::optional<RepeatKey>, std::string> RepeatKeyOf(const HttpRequest& request);

}  // namespace shoal
