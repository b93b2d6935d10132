// Rows in fewer bytes than f32: the rounding of rows that travel between nodes where a plan asks for it. Each row is
// rounded by itself, and a part of it by nothing outside its row, so that it cannot matter which rows travel together.
// One scalar definition for every machine, from IEEE operations alone; docs/numerics.md has the rules in words.
#pragma once

#include <cstdint>
#include <string_view>

namespace shoal {

/// How rows travel. The numbers are those of the wire.
enum class RowFormat : uint8_t {
  kExact = 0,  ///< f32.
  kF16 = 1,    ///< f16, and a power of two for each row.
  kQ8 = 2,     ///< int8, and a bf16 scale for each kQ8Columns columns.
};

/// "exact", "f16", "q8".
std::string_view Name(RowFormat format);

/// Columns of a row that share a scale; the last of a row may be fewer.
inline constexpr int64_t kQ8Columns = 32;
constexpr int64_t Q8Scales(int64_t cols) { return (cols + kQ8Columns - 1) / kQ8Columns; }

/// The formats other than f32 hold values below this magnitude.
inline constexpr float kRowValueLimit = 0x1p127f;
/// Whether all n values are below it. False for NaN.
bool RowFits(const float* x, int64_t n);

/// x[i] = halves[i] * 2^exponent, where the exponent brings the row's largest magnitude to [2^14, 2^15), as far as
/// [kF16ExponentMin, kF16ExponentMax] permits: halves[i] = F32ToF16(x[i] * 2^-exponent), to nearest, ties to even; no
/// value is too large. Requires RowFits(x, n).
inline constexpr int kF16ExponentMin = -110;
inline constexpr int kF16ExponentMax = 112;
void EncodeF16Row(const float* x, int64_t n, int8_t& exponent, uint16_t* halves);
/// False, with x in no particular state, where the encoder could not have written this: an exponent outside its range,
/// a half that is not finite.
bool DecodeF16Row(int8_t exponent, const uint16_t* halves, int64_t n, float* x);

/// x[i] = codes[i] * scales[i / 32], an exact product. A scale is the least bf16 that is not below absmax / 127 of its
/// columns, a code round_to_even(x / scale), in [-127, 127]; where absmax is below 127 * 2^-126, scale and codes are 0.
/// scales: bf16, [Q8Scales(n)]. Requires RowFits(x, n).
void EncodeQ8Row(const float* x, int64_t n, uint16_t* scales, int8_t* codes);
/// False, with x in no particular state, where the encoder could not have written this: a scale that is negative, not
/// finite, or beyond that of kRowValueLimit.
bool DecodeQ8Row(const uint16_t* scales, const int8_t* codes, int64_t n, float* x);

}  // namespace shoal
