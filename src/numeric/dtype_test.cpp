#include "numeric/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.h"
#include "numeric/view.h"

namespace shoal {
namespace {

/// A float format: `fraction` bits after the point, normal numbers from 2^`exponent_min` up.
struct Format {
  int fraction;
  int exponent_min;
};
constexpr Format kF16{10, -14};
constexpr Format kBF16{7, -126};

/// `value` rounded to the nearest number of the format, ties to even, with an unbounded exponent. Exact in
/// double.
double RoundByDefinition(double value, Format format) {
  if (value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);  // |value| in [2^(exponent - 1), 2^exponent).
  const double unit = std::ldexp(1.0, std::max(exponent - 1, format.exponent_min) - format.fraction);
  return std::nearbyint(value / unit) * unit;  // The default rounding mode is to nearest even.
}

TEST(DType, EveryF16SurvivesConversionToF32AndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = F16ToF32(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(value))));
    } else {
      ASSERT_EQ(F32ToF16(value), half);
    }
  }
}

TEST(DType, EveryBF16SurvivesConversionToF32AndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = BF16ToF32(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(value))));
    } else {
      ASSERT_EQ(F32ToBF16(value), half);
    }
  }
}

TEST(DType, ConversionsFromF32RoundToNearestEven) {
  for (uint64_t i = 0; i < 2'000'000; ++i) {
    uint32_t bits = static_cast<uint32_t>(RandomBits(1, 2, i));
    if (i % 4 == 0) bits &= 0xfffff000u;  // Ties of f16 ...
    if (i % 4 == 1) bits &= 0xffff8000u;  // ... and of bf16.
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    const double as_f16 = RoundByDefinition(value, kF16);
    const float f16 = F16ToF32(F32ToF16(value));
    if (std::abs(as_f16) <= 65504) {
      ASSERT_EQ(static_cast<double>(f16), as_f16) << value;
    } else {
      ASSERT_TRUE(std::isinf(f16)) << value;
    }
    const double as_bf16 = RoundByDefinition(value, kBF16);
    if (std::abs(as_bf16) <= 0x1.fep127) {
      ASSERT_EQ(static_cast<double>(BF16ToF32(F32ToBF16(value))), as_bf16) << value;
    }
  }
}

TEST(DType, SaturatingKeepsTheSignAndEveryFiniteValueFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value : {65520.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(F16ToF32(F32ToF16Saturating(value)), 65504.0f);
    EXPECT_EQ(F16ToF32(F32ToF16Saturating(-value)), -65504.0f);
    EXPECT_TRUE(SaturatesF16(value));
    EXPECT_EQ(F16ToF32(F32ToF16(value)), kInfinity);
  }
  const float largest = std::nextafter(65520.0f, 0.0f);
  EXPECT_EQ(F16ToF32(F32ToF16(largest)), 65504.0f);
  EXPECT_FALSE(SaturatesF16(largest));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16Saturating(nan))));
  EXPECT_FALSE(SaturatesF16(nan));
}

TEST(DType, EverySafetensorsNameGivesItsDTypeBack) {
  for (int i = 0; i <= static_cast<int>(DType::kF64); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(DTypeFromSafetensors(SafetensorsName(dtype)), dtype);
    EXPECT_GE(DTypeBytes(dtype), 1);
  }
  EXPECT_EQ(DTypeFromSafetensors("f32"), std::nullopt);
  EXPECT_EQ(DTypeName(DType::kBF16), "bf16");
}

TEST(MatView, RowAndColumnRangesPointIntoTheWhole) {
  float data[12] = {};
  const MatView<float> whole(data, 3, 4);
  const MatView<const float> constant = whole;
  EXPECT_EQ(constant.row(2), data + 8);
  const MatView<float> corner = whole.rows_between(1, 3).cols_between(1, 3);
  EXPECT_EQ(&corner.at(1, 0), data + 9);
  EXPECT_FALSE(corner.contiguous());
  EXPECT_TRUE(whole.rows_between(0, 2).contiguous());
  EXPECT_DEATH(whole.rows_between(2, 4), "end <= rows");
  EXPECT_DEATH((MatView<float>(data, 3, 4, 3)), "stride");
}

}  // namespace
}  // namespace shoal
