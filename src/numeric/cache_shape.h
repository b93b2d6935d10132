// The shape of what a layer caches per sequence. It has its own header because the cache and the model spec
// share it.
#pragma once

#include <cstdint>

#include "numeric/dtype.h"

namespace shoal {

/// Positions of a block of the KV cache: block b of a sequence holds positions [32 b, 32 b + 32). Fixed,
/// because attention computes block by block, at absolute multiples of it (docs/numerics.md).
inline constexpr int64_t kBlockPositions = 32;

/// Dimensions of a head that share a scale in a cache of DType::kI8, which is what --kv-dtype q8 means.
inline constexpr int64_t kKvGroupDims = 64;
/// Groups of a head; the last may have fewer dimensions.
constexpr int64_t KvGroups(int64_t head_dim) { return (head_dim + kKvGroupDims - 1) / kKvGroupDims; }
/// Columns of a head's int8 keys: whole panels of 32 (kernels.h).
constexpr int64_t KvKeyColumns(int64_t head_dim) { return (head_dim + 31) / 32 * 32; }

/// Bytes of the keys (or of the values) of one head in one block. Of DType::kI8 these are codes, then bf16 scales.
constexpr int64_t KvHeadBytes(int64_t head_dim, DType dtype) {
  if (dtype != DType::kI8) return kBlockPositions * head_dim * (dtype == DType::kF32 ? 4 : 2);
  return kBlockPositions * (KvKeyColumns(head_dim) + 2 * KvGroups(head_dim));
}

/// What one layer caches: K and V for each position, each [kv_heads, head_dim] in the cache's dtype, and where an
/// indexer picks what is attended to its key [index_dim] in that dtype; or one state of state_values f32 for each
/// sequence; or both.
struct KvLayerShape {
  int kv_heads = 0;  ///< 0: nothing for each position.
  int head_dim = 0;
  int64_t state_values = 0;  ///< 0: no state.
  int index_dim = 0;         ///< 0: there is no indexer. Else there are K and V.
  bool has_blocks() const { return kv_heads > 0; }
  bool has_states() const { return state_values > 0; }
  bool operator==(const KvLayerShape&) const = default;

  /// Numbers cached for each position.
  int64_t values_per_position() const { return int64_t{2} * kv_heads * head_dim + index_dim; }
};

/// Head dimension in the cache: padded with zeros to a multiple of 16, the kernels' unit. Zeros change no
/// score.
constexpr int CachedHeadDim(int head_dim) { return (head_dim + 15) / 16 * 16; }

/// `floats` rounded up to whole cache lines.
constexpr int64_t PaddedToCacheLine(int64_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace shoal
