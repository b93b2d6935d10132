#include "convert/synth_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

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

/// Smallest and largest of a group (a multiple of 8 values), in eight lanes: one chain of compares would wait
/// on itself.
std::pair<float, float> RangeOf(std::span<const float> group) {
  float low[8], high[8];
  std::copy_n(group.begin(), 8, low);
  std::copy_n(group.begin(), 8, high);
  for (size_t i = 8; i < group.size(); i += 8) {
    for (size_t lane = 0; lane < 8; ++lane) {
      low[lane] = group[i + lane] < low[lane] ? group[i + lane] : low[lane];
      high[lane] = group[i + lane] > high[lane] ? group[i + lane] : high[lane];
    }
  }
  return {*std::ranges::min_element(low), *std::ranges::max_element(high)};
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
  const uint64_t first = static_cast<uint64_t>(row) * draws;
  const auto value = [this](uint64_t bits) {
    return mean_ + (static_cast<float>(static_cast<int32_t>(bits & 0xffffu)) - kHalfRange) * step_;
  };
  const size_t whole = out.size() / 4;
  for (size_t draw = 0; draw < whole; ++draw) {
    const uint64_t bits = RandomBits(seed_, stream_, first + draw);
    for (size_t lane = 0; lane < 4; ++lane) out[draw * 4 + lane] = value(bits >> (16 * lane));
  }
  for (size_t i = whole * 4; i < out.size(); ++i) {
    out[i] = value(RandomBits(seed_, stream_, first + whole) >> (16 * (i % 4)));
  }
  if (dtype_ == DType::kBF16) {
    for (float& element : out) element = BF16ToF32(F32ToBF16(element));
  } else if (dtype_ == DType::kF16) {
    for (float& element : out) element = F16ToF32(F32ToF16(element));
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
  const auto group_size = static_cast<size_t>(format.group);
  uint64_t pending = 0;  // Bits of the stream that do not fill a word yet.
  int pending_bits = 0;
  std::byte* words = out.words;
  for (size_t begin = 0; begin < row.size(); begin += group_size) {
    const std::span<const float> group = row.subspan(begin, group_size);
    const auto [low, high] = RangeOf(group);
    const float scale = RoundToFloatDType((high - low) / levels, dtype);
    const float bias = RoundToFloatDType(low, dtype);
    const size_t index = begin / group_size * static_cast<size_t>(DTypeBytes(dtype));
    StoreFloats({&scale, 1}, dtype, out.scales + index);
    StoreFloats({&bias, 1}, dtype, out.biases + index);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (const float value : group) {
      const float code = std::clamp((value - bias) * inverse + 0.5f, 0.0f, levels);
      pending |= static_cast<uint64_t>(static_cast<uint32_t>(static_cast<int32_t>(code))) << pending_bits;
      pending_bits += format.bits;
      if (pending_bits < 32) continue;
      std::memcpy(words, &pending, 4);
      words += 4;
      pending >>= 32;
      pending_bits -= 32;
    }
  }
  SHOAL_CHECK_EQ(pending_bits, 0);  // A group has 32 codes or a multiple, so a row ends on a word.
}

}  // namespace shoal
