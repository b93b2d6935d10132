// What a layer keeps of a sequence, as the cache and the model's description both name it.
#pragma once

#include <cstdint>

namespace shoal {

/// Positions of a block of the KV cache, fixed: block b of a sequence holds positions [32 b, 32 b + 32), and
/// the partial results of attention are cut at absolute multiples of it (docs/numerics.md).
inline constexpr int64_t kBlockPositions = 32;

/// What one layer keeps: per position K and V, each [kv_heads, head_dim] of `dtype`; or, where state_values
/// is not 0, one state of so many f32 per sequence and nothing per position.
struct KvLayerShape {
  int kv_heads = 0;
  int head_dim = 0;
  int64_t state_values = 0;
  bool operator==(const KvLayerShape&) const = default;
};

/// Head dimension in the cache: padded with zeros to a multiple of 16, the kernels' unit. Zeros change no
/// score.
constexpr int CachedHeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

/// Floats of a state that end on a cache line.
constexpr int64_t PaddedToCacheLine(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace shoal
