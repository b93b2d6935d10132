// Affine quantized matrices in MLX's layout on disk (packed words, scales, biases), the rules for their
// shapes, and the plain unpacking that faster code is tested against.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "numeric/dtype.h"

namespace shoal {

/// Bits per code that MLX's affine mode supports.
constexpr bool IsAffineBits(int64_t bits) {
  return bits == 2 || bits == 3 || bits == 4 || bits == 5 || bits == 6 || bits == 8;
}
/// Group sizes (columns that share one scale and one bias): MLX's, and 16, which are GGUF's.
constexpr bool IsMlxGroup(int64_t group) { return group == 32 || group == 64 || group == 128; }
constexpr bool IsAffineGroup(int64_t group) { return group == 16 || IsMlxGroup(group); }
/// Codes that there are kernels for: in groups of 16 those of Q2_K, Q3_K and Q6_K.
constexpr bool IsAffineForm(int64_t bits, int64_t group) {
  return IsAffineBits(bits) && (IsMlxGroup(group) || (group == 16 && (bits == 2 || bits == 3 || bits == 6)));
}
/// Columns that codes come in: a group, or two groups of 16.
constexpr int64_t AffineSpan(int64_t group) { return group < 32 ? 32 : group; }
/// Groups that such columns hold: one, or two.
constexpr int64_t AffineGroupsTogether(int64_t group) { return AffineSpan(group) / group; }

/// A view of a quantized matrix w[n, k] = scale[n, k / group] * code[n, k] + bias[n, k / group].
///   words           u32 [rows, cols * bits / 32]: a row is one little-endian bit stream, with code k at
///                   bits [k * bits, (k + 1) * bits).
///   scales, biases  scale_dtype (f32, f16 or bf16) [rows, cols / group].
/// cols is a multiple of group, and of 32, so every row ends on a whole word.
/// The pointers are void because safetensors files may be unaligned: read with memcpy.
/// Source: mlx `mx.quantize`; python/tests/test_quantized.py for the 3-, 5- and 6-bit streams.
struct AffineView {
  const void* words = nullptr;
  const void* scales = nullptr;
  const void* biases = nullptr;
  DType scale_dtype = DType::kBF16;
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 0;
  int group = 0;

  int64_t words_per_row() const { return cols * bits / 32; }
  int64_t groups_per_row() const { return cols / group; }
};

/// Whether the shape is valid: supported bits and group, cols a positive multiple of its span, a float scale dtype.
constexpr bool AffineLawHolds(const AffineView& view) {
  return IsAffineForm(view.bits, view.group) && view.rows >= 0 && view.cols > 0 &&
         view.cols % AffineSpan(view.group) == 0 && IsFloatWeight(view.scale_dtype);
}

/// Element `index` of a possibly unaligned f32, f16 or bf16 array, as f32 (exact).
inline float LoadFloatWeight(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(data) + index * 4, 4);
    return value;
  }
  SHOAL_CHECK(dtype == DType::kF16 || dtype == DType::kBF16);
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + index * 2, 2);
  return dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

/// The code of (row, col), in [0, 2^bits).
inline int AffineCode(const AffineView& view, int64_t row, int64_t col) {
  const char* row_bytes = static_cast<const char*>(view.words) + row * view.words_per_row() * 4;
  const int64_t first_bit = col * view.bits;
  const int64_t first_byte = first_bit / 8;
  const int64_t bytes_in_row = view.words_per_row() * 4;
  uint16_t two_bytes =
      static_cast<uint8_t>(row_bytes[first_byte]);  // A code of <= 8 bits spans at most two bytes.
  if (first_byte + 1 < bytes_in_row) {
    two_bytes |= static_cast<uint16_t>(static_cast<uint8_t>(row_bytes[first_byte + 1]) << 8);
  }
  return (two_bytes >> (first_bit % 8)) & ((1 << view.bits) - 1);
}

/// Scale and bias of (row, group index), as f32 (exact).
inline float AffineScale(const AffineView& view, int64_t row, int64_t group_index) {
  return LoadFloatWeight(view.scales, view.scale_dtype, row * view.groups_per_row() + group_index);
}
inline float AffineBias(const AffineView& view, int64_t row, int64_t group_index) {
  return LoadFloatWeight(view.biases, view.scale_dtype, row * view.groups_per_row() + group_index);
}

/// scale * code + bias in f32: the product is rounded, then the sum, as in the goldens.
inline float AffineValue(const AffineView& view, int64_t row, int64_t col) {
  const float product =
      AffineScale(view, row, col / view.group) * static_cast<float>(AffineCode(view, row, col));
  return product + AffineBias(view, row, col / view.group);
}

}  // namespace shoal
