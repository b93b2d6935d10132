// What the layers of one node keep of sequences: keys and values of positions in blocks, and states of
// recurrent layers in slots. Ids of both are the coordinator's; every node has the same number of each, for
// its own layers only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/range.h"
#include "kv/block_pool.h"
#include "numeric/cache_shape.h"
#include "numeric/dtype.h"
#include "numeric/memory.h"

namespace shoal {

/// Where a sequence's state goes when `position` tokens have passed: into a slot, which from then on is a
/// snapshot for as long as nobody writes to it.
struct StateWrite {
  int32_t position = 0;
  SlotId slot;
  bool operator==(const StateWrite&) const = default;
};

/// The slot of a sequence of which nothing has passed yet.
inline constexpr SlotId kNoState{-1};

/// Memory for `blocks` blocks of each layer in `layers`, and `state_slots` states. Pages are touched only
/// when a block or slot is first written. One block of one layer holds K, as
/// [kv_heads][head_dim][kBlockPositions], then V, as [kv_heads][kBlockPositions][head_dim].
class KvCache {
 public:
  /// shapes: one per layer of `layers`, in order. dtype: F32, BF16 or F16.
  /// ResourceExhausted if the address space or memory limit refuses it.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Range layers, std::vector<KvLayerShape> shapes,
                                                         DType dtype, int blocks, int state_slots = 0);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  DType dtype() const { return dtype_; }
  int blocks() const { return blocks_; }
  Range layers() const { return layers_; }

  int state_slots() const { return static_cast<int>(state_positions_.size()); }

  /// First byte of K (V) of a block. CHECKs that layer and block are ours.
  std::byte* keys(LayerId layer, BlockId block) const;
  std::byte* values(LayerId layer, BlockId block) const;

  /// A layer's state in a slot. CHECKs that layer and slot are ours, and that the layer has states.
  float* state(LayerId layer, SlotId slot) const;

  /// How many tokens had passed in the state that a slot holds, over all layers; -1: it holds none. Whoever
  /// writes states keeps it: -1 before the first layer, the position behind the last, so that a step that
  /// failed half-way leaves no state that could be taken for whole.
  int32_t state_position(SlotId slot) const;
  void set_state_position(SlotId slot, int32_t position);

  /// Bytes that one block takes over all layers held here.
  int64_t bytes_per_block() const;
  /// Bytes that one state slot takes over all layers held here.
  int64_t bytes_per_slot() const;

 private:
  KvCache() = default;
  Range layers_;
  std::vector<KvLayerShape> shapes_;
  DType dtype_ = DType::kF16;
  int blocks_ = 0;
  std::vector<size_t> layer_offset_;  // Byte offset of each layer's blocks or slots in the map.
  std::vector<int32_t> state_positions_;
  AlignedMemory memory_;
};

}  // namespace shoal
