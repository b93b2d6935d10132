// Inputs for kernel tests: ordinary values, and edge cases that break kernels.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/kernels.h"

namespace shoal {

enum class Values { kOrdinary, kEdge };

/// Ordinary: about normal(0, 1), as sums of four uniforms. Edge: zeros of both signs, subnormals, powers of
/// two, and magnitudes from 1e-30 to 1e4.
inline std::vector<float> RandomFloats(RandomStream& random, int64_t n, Values kind = Values::kOrdinary) {
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {
    const double sum = random.uniform() + random.uniform() + random.uniform() + random.uniform();
    value = static_cast<float>((sum - 2.0) * 1.732);
    if (kind == Values::kOrdinary) continue;
    switch (random.below(8)) {
      case 0:
        value = 0.0f;
        break;
      case 1:
        value = -0.0f;
        break;
      case 2:
        value *= 0x1p-140f;
        break;
      case 3:
        value *= 1e-30f;
        break;
      case 4:
        value *= 1e4f;
        break;
      case 5:
        value = 0.5f;
        break;
      default:
        break;
    }
  }
  return values;
}

template <typename T>
MatView<T> View(std::vector<T>& values, int64_t cols) {
  return MatView<T>(values.data(), static_cast<int64_t>(values.size()) / cols, cols);
}
template <typename T>
MatView<const T> ConstView(const std::vector<T>& values, int64_t cols) {
  return MatView<const T>(values.data(), static_cast<int64_t>(values.size()) / cols, cols);
}

/// The bits of floats, for gtest to compare and print: -0 differs from +0.
inline std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  bits.reserve(values.size());
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

/// An affine matrix in MLX's layout, with its memory.
struct AffineSource {
  std::vector<uint32_t> words;
  std::vector<uint8_t> scales;
  std::vector<uint8_t> biases;
  AffineView view;
};

inline void AppendAs(float value, DType dtype, std::vector<uint8_t>& out) {
  uint8_t bytes[4];
  const uint16_t half = dtype == DType::kF16 ? F32ToF16(value) : F32ToBF16(value);
  if (dtype == DType::kF32) {
    std::memcpy(bytes, &value, 4);
  } else {
    std::memcpy(bytes, &half, 2);
  }
  out.insert(out.end(), bytes, bytes + DTypeBytes(dtype));
}

inline AffineSource RandomAffine(RandomStream& random, int64_t rows, int64_t cols, int bits, int group,
                                 DType dtype) {
  AffineSource source;
  source.words.resize(static_cast<size_t>(rows * cols * bits / 32));
  for (uint32_t& word : source.words) word = static_cast<uint32_t>(random.bits());
  const float step = 0.2f / static_cast<float>(1 << bits);
  for (int64_t i = 0; i < rows * cols / group; ++i) {
    AppendAs(step * static_cast<float>(0.5 + random.uniform()), dtype, source.scales);
    AppendAs(static_cast<float>(-0.1 - 0.05 * random.uniform()), dtype, source.biases);
  }
  source.view = {.words = source.words.data(),
                 .scales = source.scales.data(),
                 .biases = source.biases.data(),
                 .scale_dtype = dtype,
                 .rows = rows,
                 .cols = cols,
                 .bits = bits,
                 .group = group};
  return source;
}

/// [rows, cols] elements of f32, f16 or bf16.
inline std::vector<uint8_t> FloatsAs(const std::vector<float>& values, DType dtype) {
  std::vector<uint8_t> bytes;
  for (const float value : values) AppendAs(value, dtype, bytes);
  return bytes;
}

/// Quantized rows with their memory.
struct QuantizedStorage {
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<float> sums;
  QuantizedRows rows;
};

inline QuantizedStorage MakeQuantized(int64_t rows, int64_t cols, int group) {
  QuantizedStorage storage;
  storage.codes.resize(static_cast<size_t>(rows * cols), 99);
  storage.scales.resize(static_cast<size_t>(rows * cols / group), 99.0f);
  storage.sums.resize(storage.scales.size(), 99.0f);
  storage.rows = {.codes = storage.codes.data(),
                  .scales = storage.scales.data(),
                  .sums = storage.sums.data(),
                  .rows = rows,
                  .cols = cols,
                  .group = group};
  return storage;
}

inline QuantizedStorage Quantize(const Kernels& kernels, const std::vector<float>& x, int64_t cols,
                                 int group) {
  const int64_t rows = static_cast<int64_t>(x.size()) / cols;
  QuantizedStorage storage = MakeQuantized(rows, cols, group);
  EXPECT_TRUE(kernels.quantize_rows({.x = ConstView(x, cols), .out = storage.rows, .rows = {0, rows}}));
  return storage;
}

/// A KV cache layer of `blocks` blocks with its memory, filled with NaN bits, so that reading a position that
/// was not written shows in the result.
struct CacheStorage {
  std::vector<std::byte> memory;
  KvLayerView view;
};

inline CacheStorage MakeCache(int64_t blocks, int64_t kv_heads, int64_t head_dim, DType dtype) {
  CacheStorage storage;
  const int64_t half = KvBlockBytes(kv_heads, head_dim, dtype);
  storage.memory.resize(static_cast<size_t>(2 * half * blocks), std::byte{0xff});
  storage.view = {.keys = storage.memory.data(),
                  .values = storage.memory.data() + half,
                  .block_stride = 2 * half,
                  .kv_heads = kv_heads,
                  .head_dim = head_dim,
                  .dtype = dtype};
  return storage;
}

}  // namespace shoal
