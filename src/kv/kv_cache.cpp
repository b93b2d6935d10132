#include "kv/kv_cache.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"
#include "numeric/unused_memory.h"

namespace shoal {
namespace {

/// Bytes of K of one block; V has as many. 0: the layer has no blocks.
size_t HalfBlockBytes(const KvLayerShape& shape, DType dtype) {
  return static_cast<size_t>(shape.kv_heads) * static_cast<size_t>(KvHeadBytes(shape.head_dim, dtype));
}

size_t SlotBytes(const KvLayerShape& shape) {
  return static_cast<size_t>(shape.state_values) * sizeof(float);
}

/// Bytes of one block: K, V and the keys of an indexer. 0: the layer has no blocks.
size_t BlockBytes(const KvLayerShape& shape, DType dtype) {
  return 2 * HalfBlockBytes(shape, dtype) + static_cast<size_t>(KvHeadBytes(shape.index_dim, dtype));
}

bool IsZero(std::span<const std::byte> bytes) {
  return bytes.front() == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

std::span<std::byte> BytesOf(const AlignedMemory& memory) {
  return {memory.data(), static_cast<size_t>(memory.bytes())};
}

/// Copies places of `each` bytes. Pages of places that hold nothing stay untouched.
void CopyPlaces(const AlignedMemory& from, AlignedMemory& to, size_t each) {
  if (each == 0) return;
  const auto bytes = static_cast<size_t>(std::min(from.bytes(), to.bytes()));
  for (size_t at = 0; at < bytes; at += each) {
    const std::span<const std::byte> place(from.data() + at, each);
    if (!IsZero(place)) std::ranges::copy(place, to.data() + at);
  }
}

/// `own` holds what `memory` held, which need not be as long.
void TakeOver(AlignedMemory memory, AlignedMemory& own, size_t each) {
  if (memory.bytes() < own.bytes()) return CopyPlaces(memory, own, each);
  ClearUnused(BytesOf(memory).subspan(static_cast<size_t>(own.bytes())));
  own = std::move(memory);
}

/// Bytes of a layer's blocks, and of its states.
struct LayerBytes {
  size_t blocks = 0;
  size_t states = 0;
};

/// Adds what a layer takes to `sum`; nullopt: it exceeds the address space.
std::optional<LayerBytes> BytesOfLayer(const KvLayerShape& shape, DType dtype, int blocks, int state_slots,
                                       size_t& sum) {
  LayerBytes bytes;
  if (__builtin_mul_overflow(BlockBytes(shape, dtype), static_cast<size_t>(blocks), &bytes.blocks) ||
      __builtin_mul_overflow(SlotBytes(shape), static_cast<size_t>(state_slots), &bytes.states) ||
      __builtin_add_overflow(sum, bytes.blocks, &sum) || __builtin_add_overflow(sum, bytes.states, &sum) ||
      sum > size_t{INT64_MAX} / 2) {
    return std::nullopt;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(Range layers, std::vector<KvLayerShape> shapes,
                                                         DType dtype, int blocks, int state_slots) {
  SHOAL_CHECK_EQ(static_cast<int64_t>(shapes.size()), layers.size());
  SHOAL_CHECK(IsFloatWeight(dtype) || dtype == DType::kI8);
  SHOAL_CHECK(blocks >= 0 && state_slots >= 0);
  std::unique_ptr<KvCache> cache(new KvCache());
  cache->layers_ = layers;
  cache->dtype_ = dtype;
  cache->blocks_ = blocks;
  size_t bytes = 0;
  std::vector<LayerBytes> bytes_of;
  for (const KvLayerShape& shape : shapes) {
    SHOAL_CHECK((shape.has_blocks() || shape.has_states()) && shape.has_blocks() == (shape.head_dim > 0));
    SHOAL_CHECK(shape.index_dim == 0 || (shape.index_dim > 0 && shape.has_blocks()));
    const std::optional<LayerBytes> of_layer = BytesOfLayer(shape, dtype, blocks, state_slots, bytes);
    if (!of_layer) {
      return ResourceExhausted("kv: {} blocks and {} state slots of {} layers exceed the address space",
                               blocks, state_slots, layers.size());
    }
    bytes_of.push_back(*of_layer);
  }
  cache->state_positions_.assign(static_cast<size_t>(state_slots), -1);
  cache->shapes_ = std::move(shapes);
  // Pages appear when a block is first written, so an idle cache costs nothing. They are huge pages, because
  // decode reads the cache once per token, in runs of a few KiB, and with 4 KiB pages the walks cost as much
  // as the reads.
  for (const LayerBytes& layer_bytes : bytes_of) {
    auto of_blocks = AlignedMemory::Allocate(static_cast<int64_t>(layer_bytes.blocks));
    auto of_states = AlignedMemory::Allocate(static_cast<int64_t>(layer_bytes.states));
    if (!of_blocks.ok() || !of_states.ok()) {
      return ResourceExhausted(
          "kv: {} for {} blocks and {} state slots of layers [{}, {}) refused. Ask for fewer positions or "
          "sequences.",
          FormatBytes(static_cast<int64_t>(bytes)), blocks, state_slots, layers.begin, layers.end);
    }
    cache->memory_.push_back({*std::move(of_blocks), *std::move(of_states)});
  }
  cache->held_.assign(bytes_of.size(), true);
  return cache;
}

std::vector<LayerId> KvCache::take_over(KvCache& old) {
  std::vector<LayerId> taken;
  for (int64_t i = layers_.begin; dtype_ == old.dtype_ && i < layers_.end; ++i) {
    const LayerId layer{static_cast<int32_t>(i)};
    if (!old.has(layer) || old.shape(layer) != shape(layer)) continue;
    const size_t from = old.index_of(layer);
    old.held_[from] = false;
    LayerMemory& own = memory_[index_of(layer)];
    TakeOver(std::move(old.memory_[from].blocks), own.blocks, static_cast<size_t>(block_bytes(layer)));
    TakeOver(std::move(old.memory_[from].states), own.states, static_cast<size_t>(slot_bytes(layer)));
    taken.push_back(layer);
  }
  const size_t slots = taken.empty() ? 0 : std::min(state_positions_.size(), old.state_positions_.size());
  std::copy_n(old.state_positions_.begin(), slots, state_positions_.begin());
  return taken;
}

void KvCache::trim(int blocks, int state_slots) {
  blocks_ = std::min(blocks_, blocks);
  state_positions_.resize(std::min(state_positions_.size(), static_cast<size_t>(state_slots)));
  for (size_t i = 0; i < memory_.size(); ++i) {
    if (!held_[i]) continue;
    const auto clear_behind = [](const AlignedMemory& memory, int places, size_t each) {
      ClearUnused(BytesOf(memory).subspan(static_cast<size_t>(places) * each));
    };
    clear_behind(memory_[i].blocks, blocks_, BlockBytes(shapes_[i], dtype_));
    clear_behind(memory_[i].states, this->state_slots(), SlotBytes(shapes_[i]));
  }
}

size_t KvCache::index_of(LayerId layer) const {
  SHOAL_CHECK(layers_.contains(layer.value));
  return static_cast<size_t>(layer.value - layers_.begin);
}

int64_t KvCache::block_bytes(LayerId layer) const {
  return static_cast<int64_t>(BlockBytes(shape(layer), dtype_));
}

int64_t KvCache::slot_bytes(LayerId layer) const { return static_cast<int64_t>(SlotBytes(shape(layer))); }

std::byte* KvCache::keys(LayerId layer, BlockId block) const {
  const size_t index = index_of(layer);
  SHOAL_CHECK(block.value >= 0 && block.value < blocks_);
  SHOAL_CHECK_GT(shapes_[index].kv_heads, 0);
  return memory_[index].blocks.data() + BlockBytes(shapes_[index], dtype_) * static_cast<size_t>(block.value);
}

std::byte* KvCache::values(LayerId layer, BlockId block) const {
  return keys(layer, block) +
         HalfBlockBytes(shapes_[static_cast<size_t>(layer.value - layers_.begin)], dtype_);
}

std::byte* KvCache::index_keys(LayerId layer, BlockId block) const {
  const KvLayerShape& kept = shape(layer);
  SHOAL_CHECK_GT(kept.index_dim, 0);
  return keys(layer, block) + 2 * HalfBlockBytes(kept, dtype_);
}

float* KvCache::state(LayerId layer, SlotId slot) const {
  SHOAL_CHECK(layers_.contains(layer.value));
  SHOAL_CHECK(slot.value >= 0 && slot.value < state_slots());
  const auto index = static_cast<size_t>(layer.value - layers_.begin);
  SHOAL_CHECK_GT(shapes_[index].state_values, 0);
  return reinterpret_cast<float*>(memory_[index].states.data() +
                                  SlotBytes(shapes_[index]) * static_cast<size_t>(slot.value));
}

int32_t KvCache::state_position(SlotId slot) const {
  SHOAL_CHECK(slot.value >= 0 && slot.value < state_slots());
  return state_positions_[static_cast<size_t>(slot.value)];
}

void KvCache::set_state_position(SlotId slot, int32_t position) {
  SHOAL_CHECK(slot.value >= 0 && slot.value < state_slots());
  state_positions_[static_cast<size_t>(slot.value)] = position;
}

int64_t KvCache::bytes_per_slot() const {
  size_t bytes = 0;
  for (const KvLayerShape& shape : shapes_) bytes += SlotBytes(shape);
  return static_cast<int64_t>(bytes);
}

int64_t KvCache::bytes_per_block() const {
  size_t bytes = 0;
  for (const KvLayerShape& shape : shapes_) bytes += BlockBytes(shape, dtype_);
  return static_cast<int64_t>(bytes);
}

}  // namespace shoal
