// The content address of a KV block. The bits of a block are a function of the model, of what decides its
// arithmetic, and of the tokens up to the block's end (docs/numerics.md), so a hash over these names them.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

namespace shoal {

/// 128 bits of XXH3. It finds equal blocks; whoever relies on it compares the tokens, too.
struct BlockKey {
  uint64_t high = 0;
  uint64_t low = 0;
  constexpr auto operator<=>(const BlockKey&) const = default;
};

/// What decides the bits of a cache beside the tokens, and is the same for all sequences of a plan. Each word
/// counts with its length, so that no two lists are taken for each other.
BlockKey CachesKey(std::span<const std::string_view> words);

/// The key before the first block of a sequence. long_rope: as SeqSlice::long_rope.
BlockKey RootKey(const BlockKey& caches, bool long_rope);

/// The key of the block that holds `tokens` behind the block with the key `previous`. CHECKs that they fill a
/// block.
BlockKey KeyAfter(const BlockKey& previous, std::span<const int32_t> tokens);

}  // namespace shoal

template <>
struct std::hash<shoal::BlockKey> {
  size_t operator()(const shoal::BlockKey& key) const { return key.low; }
};
