#include "weights/synth_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/random.h"

namespace shoal {
namespace {

constexpr float kHalfRange = 32767.5f;  // 16-bit lanes, centred.

uint64_t HashName(std::string_view name) {
  uint64_t hash = 0;
  for (const char c : name) hash = Mix64(hash ^ static_cast<uint8_t>(c));
  return hash;
}

}  // namespace

RandomMatrix::RandomMatrix(uint64_t seed, std::string_view name, double mean, double deviation, DType dtype)
    : seed_(seed),
      stream_(HashName(name)),
      mean_(static_cast<float>(mean)),
      step_(static_cast<float>(deviation * std::sqrt(3.0) /
                               kHalfRange)),  // A uniform's deviation is half range / sqrt(3).
      dtype_(dtype) {}

void RandomMatrix::fill_row(int64_t row, std::span<float> out) const {
  const uint64_t draws = (out.size() + 3) / 4;
  for (uint64_t draw = 0; draw < draws; ++draw) {
    const uint64_t bits = RandomBits(seed_, stream_, static_cast<uint64_t>(row) * draws + draw);
    const size_t lanes = std::min<size_t>(4, out.size() - draw * 4);
    for (size_t lane = 0; lane < lanes; ++lane) {
      const auto sixteen = static_cast<float>((bits >> (16 * lane)) & 0xffffu);
      out[draw * 4 + lane] = RoundToFloatDType(mean_ + (sixteen - kHalfRange) * step_, dtype_);
    }
  }
}

float RoundToFloatDType(float value, DType dtype) {
  if (dtype == DType::kBF16) return BF16ToF32(F32ToBF16(value));
  if (dtype == DType::kF16) return F16ToF32(F32ToF16(value));
  SHOAL_CHECK(dtype == DType::kF32);
  return value;
}

void StoreFloats(std::span<const float> values, DType dtype, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, values.data(), values.size_bytes());
    return;
  }
  for (const float value : values) {
    const uint16_t bits = dtype == DType::kBF16 ? F32ToBF16(value) : F32ToF16(value);
    std::memcpy(out, &bits, 2);
    out += 2;
  }
}

void QuantizeRow(std::span<const float> row, AffineFormat format, DType dtype, const QuantizedRow& out) {
  const auto levels = static_cast<float>((1 << format.bits) - 1);
  uint64_t pending = 0;  // Bits of the stream that do not fill a byte yet.
  int pending_bits = 0;
  std::byte* words = out.words;
  for (size_t begin = 0; begin < row.size(); begin += static_cast<size_t>(format.group)) {
    const auto group = row.subspan(begin, static_cast<size_t>(format.group));
    const auto [low, high] = std::ranges::minmax(group);
    const float scale = RoundToFloatDType((high - low) / levels, dtype);
    const float bias = RoundToFloatDType(low, dtype);
    const size_t index = begin / static_cast<size_t>(format.group) * static_cast<size_t>(DTypeBytes(dtype));
    StoreFloats({&scale, 1}, dtype, out.scales + index);
    StoreFloats({&bias, 1}, dtype, out.biases + index);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (const float value : group) {
      const float code = std::clamp((value - bias) * inverse + 0.5f, 0.0f, levels);
      pending |= static_cast<uint64_t>(code) << pending_bits;
      pending_bits += format.bits;
      for (; pending_bits >= 8; pending_bits -= 8, pending >>= 8)
        *words++ = static_cast<std::byte>(pending & 0xff);
    }
  }
  SHOAL_CHECK_EQ(pending_bits, 0);
}

}  // namespace shoal
