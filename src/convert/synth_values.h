// Random rows, and MLX's affine quantization of rows. Internal to convert/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "formats/mlx_quant.h"
#include "numeric/dtype.h"

namespace shoal {

/// The values of one matrix [rows, cols]: uniform around `mean`, rounded to `dtype`; a function of (seed,
/// name, row, column) alone.
class RandomMatrix {
 public:
  RandomMatrix(uint64_t seed, std::string_view name, double mean, double deviation, DType dtype);
  /// Row `row` as f32, `out.size()` columns.
  void fill_row(int64_t row, std::span<float> out) const;

 private:
  uint64_t seed_;
  uint64_t stream_;
  float mean_;
  float step_;  ///< Distance of two neighbours of the 65536 possible values.
  DType dtype_;
};

/// `value` rounded to a float dtype.
float RoundToFloatDType(float value, DType dtype);
/// Writes values already rounded to `dtype`.
void StoreFloats(std::span<const float> values, DType dtype, std::byte* out);

/// Quantizes one row: scale = (max - min) / (2^bits - 1) and bias = min per group, both rounded to `dtype`;
/// codes are rounded against the rounded pair. words: [cols * bits / 8 bytes] little-endian bit stream;
/// scales, biases: [cols / group].
struct QuantizedRow {
  std::byte* words;
  std::byte* scales;
  std::byte* biases;
};
void QuantizeRow(std::span<const float> row, AffineFormat format, DType dtype, const QuantizedRow& out);

}  // namespace shoal
