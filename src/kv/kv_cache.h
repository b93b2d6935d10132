// The KV blocks of the layers that one node holds. Block ids are the coordinator's; every node has the same
// number of blocks, each for its own layers only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/range.h"
#include "kv/block_pool.h"
#include "numeric/dtype.h"
#include "numeric/memory.h"

namespace shoal {

/// What one layer keeps per position: K and V, each [kv_heads, head_dim] of `dtype`.
struct KvLayerShape {
  int kv_heads = 0;
  int head_dim = 0;
  bool operator==(const KvLayerShape&) const = default;
};

/// Memory for `blocks` blocks of each layer in `layers`. Pages are touched only when a block is first
/// written. One block of one layer holds K, as [kv_heads][head_dim][kBlockPositions], then V, as
/// [kv_heads][kBlockPositions][head_dim].
class KvCache {
 public:
  /// shapes: one per layer of `layers`, in order. dtype: F32, BF16 or F16.
  /// ResourceExhausted if the address space or memory limit refuses it.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Range layers, std::vector<KvLayerShape> shapes,
                                                         DType dtype, int blocks);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  DType dtype() const { return dtype_; }
  int blocks() const { return blocks_; }
  Range layers() const { return layers_; }

  /// First byte of K (V) of a block. CHECKs that layer and block are ours.
  std::byte* keys(LayerId layer, BlockId block) const;
  std::byte* values(LayerId layer, BlockId block) const;

  /// Bytes that one block takes over all layers held here.
  int64_t bytes_per_block() const;

 private:
  KvCache() = default;
  Range layers_;
  std::vector<KvLayerShape> shapes_;
  DType dtype_ = DType::kF16;
  int blocks_ = 0;
  std::vector<size_t> layer_offset_;  // Byte offset of each layer's blocks in the map.
  AlignedMemory memory_;
};

/// "f32", "bf16", "f16" -> dtype; InvalidArgument lists these.
absl::StatusOr<DType> ParseKvDType(std::string_view name);

}  // namespace shoal
