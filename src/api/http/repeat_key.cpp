#include "api/http/repeat_key.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "api/http/server.h"

namespace shoal {
namespace {

Digest DigestOf(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.high64, hash.low64};
}

}  // namespace

std::expected<std::optional<RepeatKey>, std::string> RepeatKeyOf(const HttpRequest& request) {
  const bool sent = std::ranges::any_of(request.headers,
                                        [](const auto& header) { return header.first == "idempotency-key"; });
  if (!sent) return std::nullopt;
  const std::string_view key = request.header("idempotency-key");
  const bool printable = std::ranges::all_of(key, [](char c) { return c >= ' ' && c <= '~'; });
  if (key.empty() || key.size() > kIdempotencyKeyBytesMax || !printable) {
    return std::unexpected(fmt::format(
        "the header Idempotency-Key must have 1 to {} printable ASCII characters", kIdempotencyKeyBytesMax));
  }
  // Lengths in front, so that no two lists of parts have one text.
  std::string whose;
  for (const std::string_view part :
       {std::string_view(request.caller), std::string_view(request.path), key}) {
    whose += fmt::format("{}:{}", part.size(), part);
  }
  return RepeatKey{.key = DigestOf(whose), .content = DigestOf(request.body)};
}

}  // namespace shoal
