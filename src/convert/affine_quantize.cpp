#include "convert/affine_quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace shoal {
namespace {

struct Range2 {
  float scale;
  float bias;
};

Range2 ChooseRange(std::span<const float> group, float codes_max) {
  constexpr float kEps = 1e-7f;
  const auto [low, high] = std::ranges::minmax(group);
  const bool low_edge = std::fabs(low) > std::fabs(high);
  float scale = std::max((high - low) / codes_max, kEps);
  scale = low_edge ? scale : -scale;
  const float edge = low_edge ? low : high;
  const float q0 = std::rint(edge / scale);
  if (q0 == 0) return {scale, 0};
  return {edge / q0, edge};
}

void StoreFloat(float value, DType dtype, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? F32ToF16(value) : F32ToBF16(value);
  std::memcpy(out, &bits, 2);
}

}  // namespace

void QuantizeAffineRow(std::span<const float> row, AffineFormat format, DType dtype,
                       const AffineRowOut& out) {
  SHOAL_CHECK(IsAffineBits(format.bits) && IsMlxGroup(format.group) && IsFloatWeight(dtype));
  SHOAL_CHECK_EQ(static_cast<int64_t>(row.size()) % format.group, 0);
  const auto codes_max = static_cast<float>((1 << format.bits) - 1);
  const auto group = static_cast<size_t>(format.group);
  const auto dtype_size = static_cast<size_t>(DTypeBytes(dtype));
  auto* words = reinterpret_cast<uint8_t*>(out.words);
  for (size_t begin = 0; begin < row.size(); begin += group) {
    const std::span<const float> values = row.subspan(begin, group);
    const Range2 range = ChooseRange(values, codes_max);
    uint64_t window = 0;  // The row's bit stream, lowest bits first; a group ends on a byte.
    int filled = 0;
    for (const float value : values) {
      const float code = std::clamp(std::rint((value - range.bias) / range.scale), 0.0f, codes_max);
      window |= static_cast<uint64_t>(code) << filled;
      for (filled += format.bits; filled >= 8; filled -= 8, window >>= 8)
        *words++ = static_cast<uint8_t>(window);
    }
    StoreFloat(range.scale, dtype, out.scales + begin / group * dtype_size);
    StoreFloat(range.bias, dtype, out.biases + begin / group * dtype_size);
  }
}

}  // namespace shoal
