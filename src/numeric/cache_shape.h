// The shape of what a layer caches per sequence. It has its own header because the cache and the model spec
// share it.
#pragma once

#include <cstdint>

namespace shoal {

/// Positions of a block of the KV cache: block b of a sequence holds positions [32 b, 32 b + 32). Fixed,
/// because attention computes block by block, at absolute multiples of it (docs/numerics.md).
inline constexpr int64_t kBlockPositions = 32;

/// What one layer caches. If state_values is 0: K and V for each position, each [kv_heads, head_dim] in the
/// cache's dtype. Otherwise: one state of state_values f32 for each sequence, and nothing for each position.
struct KvLayerShape {
  int kv_heads = 0;
  int head_dim = 0;
  int64_t state_values = 0;
  bool operator==(const KvLayerShape&) const = default;
};

/// Head dimension in the cache: padded with zeros to a multiple of 16, the kernels' unit. Zeros change no
/// score.
constexpr int CachedHeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

/// `floats` rounded up to whole cache lines.
constexpr int64_t PaddedToCacheLine(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace shoal
