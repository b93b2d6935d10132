#include "numeric/row_format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include "numeric/dtype.h"

namespace shoal {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"exact", "f16", "q8"};

/// Below it, absmax / 127 is no normal number.
constexpr float kQ8SmallestMax = 127 * 0x1p-126f;
/// The scale of values just below kRowValueLimit, 2^127 / 127 rounded up; times 128 it is finite.
constexpr uint16_t kQ8ScaleMax = 0x7b82;

/// The bits of the largest magnitude: magnitudes are ordered as their bits are, and a NaN's are the largest.
uint32_t LargestBits(const float* x, int64_t n) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return most;
}

/// 2^exponent, of a normal number.
float PowerOfTwo(int exponent) { return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23); }

/// To the nearest integer, ties to even, of |value| below 2^22.
float RoundToInteger(float value) {
  constexpr float kMagic = 0x1.8p23f;
  return (value + kMagic) - kMagic;
}

}  // namespace

std::string_view Name(RowFormat format) { return kNames[static_cast<size_t>(format)]; }

bool RowFits(const float* x, int64_t n) {
  return LargestBits(x, n) < std::bit_cast<uint32_t>(kRowValueLimit);
}

void EncodeF16Row(const float* x, int64_t n, int8_t& exponent, uint16_t* halves) {
  const int of_largest = static_cast<int>(LargestBits(x, n) >> 23) - 127;
  const int shift = std::clamp(of_largest - 14, kF16ExponentMin, kF16ExponentMax);
  const float down = PowerOfTwo(-shift);
  for (int64_t i = 0; i < n; ++i) halves[i] = F32ToF16(x[i] * down);
  exponent = static_cast<int8_t>(shift);
}

bool DecodeF16Row(int8_t exponent, const uint16_t* halves, int64_t n, float* x) {
  if (exponent < kF16ExponentMin || exponent > kF16ExponentMax) return false;
  const float up = PowerOfTwo(exponent);
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    finite &= (halves[i] & 0x7c00u) != 0x7c00u;
    x[i] = F16ToF32(halves[i]) * up;
  }
  return finite;
}

void EncodeQ8Row(const float* x, int64_t n, uint16_t* scales, int8_t* codes) {
  for (int64_t begin = 0; begin < n; begin += kQ8Columns, ++scales) {
    const int64_t end = std::min(begin + kQ8Columns, n);
    const auto most = std::bit_cast<float>(LargestBits(x + begin, end - begin));
    *scales = most < kQ8SmallestMax ? uint16_t{0} : BF16AtLeast(most / 127);
    if (*scales == 0) {
      std::fill(codes + begin, codes + end, int8_t{0});
      continue;
    }
    const float scale = BF16ToF32(*scales);
    for (int64_t i = begin; i < end; ++i) codes[i] = static_cast<int8_t>(RoundToInteger(x[i] / scale));
  }
}

bool DecodeQ8Row(const uint16_t* scales, const int8_t* codes, int64_t n, float* x) {
  for (int64_t begin = 0; begin < n; begin += kQ8Columns, ++scales) {
    if (*scales > kQ8ScaleMax) return false;  // A negative one, too: its sign is the highest bit.
    const float scale = BF16ToF32(*scales);
    const int64_t end = std::min(begin + kQ8Columns, n);
    for (int64_t i = begin; i < end; ++i) x[i] = static_cast<float>(codes[i]) * scale;
  }
  return true;
}

}  // namespace shoal
