#include "kv/block_key.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <string>

#include "base/check.h"
#include "numeric/cache_shape.h"

namespace shoal {
namespace {

BlockKey Hash(const void* bytes, size_t size) {
  const XXH128_hash_t hash = XXH3_128bits(bytes, size);
  return {hash.high64, hash.low64};
}

}  // namespace

BlockKey CachesKey(std::span<const std::string_view> words) {
  std::string text;
  for (const std::string_view word : words) {
    text += std::to_string(word.size());
    text += ':';
    text += word;
  }
  return Hash(text.data(), text.size());
}

BlockKey RootKey(const BlockKey& caches, bool long_rope) {
  const std::array<uint64_t, 3> words = {caches.high, caches.low, long_rope ? uint64_t{1} : uint64_t{0}};
  return Hash(words.data(), sizeof(words));
}

BlockKey KeyAfter(const BlockKey& previous, std::span<const int32_t> tokens) {
  SHOAL_CHECK_EQ(std::ssize(tokens), kBlockPositions);
  struct {
    BlockKey previous;
    std::array<int32_t, kBlockPositions> tokens;
  } words;
  static_assert(sizeof(words) == sizeof(BlockKey) + kBlockPositions * sizeof(int32_t));  // No padding.
  words.previous = previous;
  std::ranges::copy(tokens, words.tokens.begin());
  return Hash(&words, sizeof(words));
}

}  // namespace shoal
