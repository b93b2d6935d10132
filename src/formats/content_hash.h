// XXH3 (https://xxhash.com): says whether bytes are those that were written. It finds accidents, not attacks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace shoal {

uint64_t ContentHash(std::span<const std::byte> bytes, uint64_t seed = 0);

/// 128 bits: as many contents as anybody has, and no two alike.
struct ContentHash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const ContentHash128&) const = default;
};
ContentHash128 LongContentHash(std::span<const std::byte> bytes);

/// 128 bits as 32 hex digits.
std::string ContentHashHex(std::string_view text);

/// The hash of bytes that are read in chunks by several threads, in any order: the sum of the chunks' hashes,
/// each seeded with its index, so that neither a changed nor a moved chunk goes unnoticed.
inline uint64_t ChunkHash(std::span<const std::byte> chunk, int64_t index) {
  return ContentHash(chunk, static_cast<uint64_t>(index) + 1);
}

}  // namespace shoal
