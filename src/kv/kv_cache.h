// The cache of one node's layers: keys and values of positions in blocks, and states of recurrent layers in
// slots. The coordinator allocates the ids of both. Every node has the same number of blocks and slots, for
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

/// Stores the state of a sequence after `position` tokens in a slot. The slot is then a snapshot until it is
/// written again.
struct StateWrite {
  int32_t position = 0;
  SlotId slot;
  bool operator==(const StateWrite&) const = default;
};

/// The slot of a sequence without a state yet, before its first token.
inline constexpr SlotId kNoState{-1};

/// Memory for `blocks` blocks and `state_slots` states of each layer in `layers` that has such, each layer's apart, so
/// that layers can leave. Pages are touched only when a block or slot is first written. One block of one layer holds, one
/// after the other,
///   K   [kv_heads][head_dim][kBlockPositions]
///   V   [kv_heads][kBlockPositions][head_dim]
///   keys of an indexer, where the layer has one   [index_dim][kBlockPositions]
/// and in a cache of int8 what KvHeadBytes says for each head (kernels.h).
class KvCache {
 public:
  /// shapes: one per layer of `layers`, in order. dtype: F32, BF16, F16, or I8: codes with scales.
  /// Returns ResourceExhausted if the address space or the memory limit is too small.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(Range layers, std::vector<KvLayerShape> shapes,
                                                         DType dtype, int blocks, int state_slots = 0);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  DType dtype() const { return dtype_; }
  int blocks() const { return blocks_; }
  Range layers() const { return layers_; }
  /// CHECK that the cache has the layer.
  const KvLayerShape& shape(LayerId layer) const { return shapes_[index_of(layer)]; }
  /// Bytes of one block of the layer, and of one state; 0: it has none. Blocks lie one after the other, and so do states.
  int64_t block_bytes(LayerId layer) const;
  int64_t slot_bytes(LayerId layer) const;

  int state_slots() const { return static_cast<int>(state_positions_.size()); }

  /// Takes over what `old` holds of layers that both have, in the same form: blocks and slots keep their ids, as far as
  /// there are as many here. No two copies of more than a layer are ever held. `old` has these layers no more; returned
  /// are they.
  std::vector<LayerId> take_over(KvCache& old);
  /// Gives back blocks and slots behind so many.
  void trim(int blocks, int state_slots);
  /// Whether the layer is one of layers() that was not taken.
  bool has(LayerId layer) const { return layers_.contains(layer.value) && held_[index_of(layer)]; }

  /// First byte of K (V) of a block. CHECKs that the cache has the layer and the block, and that the layer has blocks.
  std::byte* keys(LayerId layer, BlockId block) const;
  std::byte* values(LayerId layer, BlockId block) const;

  /// First byte of the indexer's keys of a block. CHECKs as keys(), and that the layer has an indexer.
  std::byte* index_keys(LayerId layer, BlockId block) const;

  /// The state of a layer in a slot. CHECKs that the cache has the layer and the slot, and that the layer has
  /// states.
  float* state(LayerId layer, SlotId slot) const;

  /// The number of tokens in the state that a slot holds, for all layers; -1 if it holds none. The writer of
  /// states sets it to -1 before the first layer and to the position after the last, so that a step that
  /// fails half-way leaves no state that looks complete.
  int32_t state_position(SlotId slot) const;
  void set_state_position(SlotId slot, int32_t position);

  /// Bytes that one block takes over all layers held here.
  int64_t bytes_per_block() const;
  /// Bytes that one state slot takes over all layers held here.
  int64_t bytes_per_slot() const;

 private:
  KvCache() = default;
  size_t index_of(LayerId layer) const;
  Range layers_;
  std::vector<KvLayerShape> shapes_;
  DType dtype_ = DType::kF16;
  int blocks_ = 0;
  std::vector<int32_t> state_positions_;
  /// Of one layer, and maybe more behind them.
  struct LayerMemory {
    AlignedMemory blocks, states;
  };
  std::vector<LayerMemory> memory_;
  std::vector<bool> held_;  // Of each layer: its memory is here.
};

}  // namespace shoal
