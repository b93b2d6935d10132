// Element types of checkpoints and rows, and the conversions between the float types.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace shoal {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kU16,
  kI16,
  kF16,
  kBF16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64,
};

/// Bytes of one element.
int DTypeBytes(DType dtype);

/// Lower-case name for messages: "u32", "bf16".
std::string_view DTypeName(DType dtype);

/// Name in a safetensors header: "U32", "BF16", "F8_E4M3".
std::string_view SafetensorsName(DType dtype);

/// The dtype of a safetensors name; nullopt if there is none.
std::optional<DType> DTypeFromSafetensors(std::string_view name);

/// Whether scales, norms and unquantized weights may have this dtype: f32, f16 or bf16.
constexpr bool IsFloatWeight(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

/// bf16 bits -> f32, exact.
constexpr float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

/// f32 -> bf16 bits, round to nearest even; NaN stays a (quiet) NaN, overflow becomes infinity.
constexpr uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// The bits of the least bf16 that is not below a positive value: scales of int8 codes.
constexpr uint16_t BF16AtLeast(float value) {
  return static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0xffffu) >> 16);
}

/// f16 bits -> f32, exact (subnormals too; a signalling NaN becomes quiet, as vcvtph2ps does).
constexpr float F16ToF32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // Zero or subnormal: mantissa * 2^-24, exact in f32.
    return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f) | sign);
  }
  if (exponent == 0x1f) {
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

/// f32 -> f16 bits, round to nearest even; |value| >= 65520 becomes infinity, NaN stays a quiet NaN.
constexpr uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65520 rounds to infinity.
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 makes 2^-24 the unit of the sum, so the addition rounds to it.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

/// As F32ToF16, but values beyond the range, infinities included, become +-65504 (f16 KV rows). NaN stays
/// NaN.
constexpr uint16_t F32ToF16Saturating(float value) {
  const uint16_t half = F32ToF16(value);
  return (half & 0x7fffu) == 0x7c00u ? static_cast<uint16_t>((half & 0x8000u) | 0x7bffu) : half;
}

/// Whether F32ToF16Saturating saturates `value`. False for NaN.
constexpr bool SaturatesF16(float value) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  return magnitude >= 0x477ff000u && magnitude <= 0x7f800000u;
}

}  // namespace shoal
