#include "kv/kv_cache.h"

#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Bytes of K (as of V) of one block.
size_t HalfBlockBytes(const KvLayerShape& shape, DType dtype) {
  return static_cast<size_t>(shape.kv_heads) * kBlockPositions * static_cast<size_t>(shape.head_dim) *
         static_cast<size_t>(DTypeBytes(dtype));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(Range layers, std::vector<KvLayerShape> shapes,
                                                         DType dtype, int blocks) {
  SHOAL_CHECK_EQ(static_cast<int64_t>(shapes.size()), layers.size());
  SHOAL_CHECK(IsFloatWeight(dtype));
  SHOAL_CHECK_GE(blocks, 0);
  std::unique_ptr<KvCache> cache(new KvCache());
  cache->layers_ = layers;
  cache->dtype_ = dtype;
  cache->blocks_ = blocks;
  size_t bytes = 0;
  for (const KvLayerShape& shape : shapes) {
    SHOAL_CHECK(shape.kv_heads > 0 && shape.head_dim > 0);
    cache->layer_offset_.push_back(bytes);
    size_t layer_bytes = 0;
    if (__builtin_mul_overflow(2 * HalfBlockBytes(shape, dtype), static_cast<size_t>(blocks), &layer_bytes) ||
        __builtin_add_overflow(bytes, layer_bytes, &bytes) || bytes > size_t{INT64_MAX} / 2) {
      return ResourceExhausted("kv: {} blocks of {} layers exceed the address space", blocks, layers.size());
    }
  }
  cache->shapes_ = std::move(shapes);
  // Pages appear when a block is first written, so an idle cache costs nothing. Huge ones: decode reads the
  // cache once per token, in runs of some KiB, and with 4 KiB pages the walks cost as much as the reads.
  absl::StatusOr<AlignedMemory> memory = AlignedMemory::Allocate(static_cast<int64_t>(bytes));
  if (!memory.ok()) {
    return ResourceExhausted("kv: {} for {} blocks of layers [{}, {}) refused. Ask for fewer blocks.",
                             FormatBytes(static_cast<int64_t>(bytes)), blocks, layers.begin, layers.end);
  }
  cache->memory_ = *std::move(memory);
  return cache;
}

std::byte* KvCache::keys(LayerId layer, BlockId block) const {
  SHOAL_CHECK(layers_.contains(layer.value));
  SHOAL_CHECK(block.value >= 0 && block.value < blocks_);
  const auto index = static_cast<size_t>(layer.value - layers_.begin);
  return memory_.data() + layer_offset_[index] +
         2 * HalfBlockBytes(shapes_[index], dtype_) * static_cast<size_t>(block.value);
}

std::byte* KvCache::values(LayerId layer, BlockId block) const {
  return keys(layer, block) +
         HalfBlockBytes(shapes_[static_cast<size_t>(layer.value - layers_.begin)], dtype_);
}

int64_t KvCache::bytes_per_block() const {
  size_t bytes = 0;
  for (const KvLayerShape& shape : shapes_) bytes += 2 * HalfBlockBytes(shape, dtype_);
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<DType> ParseKvDType(std::string_view name) {
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  if (name == "f16") return DType::kF16;
  return InvalidArgument("kv dtype '{}' is unknown; f32, bf16 and f16 are known", name);
}

}  // namespace shoal
