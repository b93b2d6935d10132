#include "kv/kv_cache.h"

#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Bytes of K of one block; V has as many.
size_t HalfBlockBytes(const KvLayerShape& shape, DType dtype) {
  return static_cast<size_t>(shape.kv_heads) * kBlockPositions * static_cast<size_t>(shape.head_dim) *
         static_cast<size_t>(DTypeBytes(dtype));
}

size_t SlotBytes(const KvLayerShape& shape) {
  return static_cast<size_t>(shape.state_values) * sizeof(float);
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(Range layers, std::vector<KvLayerShape> shapes,
                                                         DType dtype, int blocks, int state_slots) {
  SHOAL_CHECK_EQ(static_cast<int64_t>(shapes.size()), layers.size());
  SHOAL_CHECK(IsFloatWeight(dtype));
  SHOAL_CHECK(blocks >= 0 && state_slots >= 0);
  std::unique_ptr<KvCache> cache(new KvCache());
  cache->layers_ = layers;
  cache->dtype_ = dtype;
  cache->blocks_ = blocks;
  size_t bytes = 0;
  for (const KvLayerShape& shape : shapes) {
    const bool state = shape.state_values > 0;
    SHOAL_CHECK(state || (shape.kv_heads > 0 && shape.head_dim > 0));
    cache->layer_offset_.push_back(bytes);
    const size_t each = state ? SlotBytes(shape) : 2 * HalfBlockBytes(shape, dtype);
    size_t layer_bytes = 0;
    if (__builtin_mul_overflow(each, static_cast<size_t>(state ? state_slots : blocks), &layer_bytes) ||
        __builtin_add_overflow(bytes, layer_bytes, &bytes) || bytes > size_t{INT64_MAX} / 2) {
      return ResourceExhausted("kv: {} blocks and {} state slots of {} layers exceed the address space",
                               blocks, state_slots, layers.size());
    }
  }
  cache->state_positions_.assign(static_cast<size_t>(state_slots), -1);
  cache->shapes_ = std::move(shapes);
  // Pages appear when a block is first written, so an idle cache costs nothing. They are huge pages, because
  // decode reads the cache once per token, in runs of a few KiB, and with 4 KiB pages the walks cost as much
  // as the reads.
  absl::StatusOr<AlignedMemory> memory = AlignedMemory::Allocate(static_cast<int64_t>(bytes));
  if (!memory.ok()) {
    return ResourceExhausted(
        "kv: {} for {} blocks and {} state slots of layers [{}, {}) refused. Ask for fewer positions or "
        "sequences.",
        FormatBytes(static_cast<int64_t>(bytes)), blocks, state_slots, layers.begin, layers.end);
  }
  cache->memory_ = *std::move(memory);
  return cache;
}

size_t KvCache::index_of(LayerId layer) const {
  SHOAL_CHECK(layers_.contains(layer.value));
  return static_cast<size_t>(layer.value - layers_.begin);
}

int64_t KvCache::place_bytes(LayerId layer) const {
  const KvLayerShape& shape = this->shape(layer);
  return static_cast<int64_t>(shape.state_values > 0 ? SlotBytes(shape) : 2 * HalfBlockBytes(shape, dtype_));
}

std::byte* KvCache::keys(LayerId layer, BlockId block) const {
  const size_t index = index_of(layer);
  SHOAL_CHECK(block.value >= 0 && block.value < blocks_);
  return memory_.data() + layer_offset_[index] +
         2 * HalfBlockBytes(shapes_[index], dtype_) * static_cast<size_t>(block.value);
}

std::byte* KvCache::values(LayerId layer, BlockId block) const {
  return keys(layer, block) +
         HalfBlockBytes(shapes_[static_cast<size_t>(layer.value - layers_.begin)], dtype_);
}

float* KvCache::state(LayerId layer, SlotId slot) const {
  SHOAL_CHECK(layers_.contains(layer.value));
  SHOAL_CHECK(slot.value >= 0 && slot.value < state_slots());
  const auto index = static_cast<size_t>(layer.value - layers_.begin);
  SHOAL_CHECK_GT(shapes_[index].state_values, 0);
  return reinterpret_cast<float*>(memory_.data() + layer_offset_[index] +
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
  for (const KvLayerShape& shape : shapes_) bytes += 2 * HalfBlockBytes(shape, dtype_);
  return static_cast<int64_t>(bytes);
}

}  // namespace shoal
