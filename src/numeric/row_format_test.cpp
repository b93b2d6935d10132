#include "numeric/row_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

struct F16Row {
  int8_t exponent = 0;
  std::vector<uint16_t> halves;
  bool operator==(const F16Row&) const = default;
};

F16Row EncodedF16(const std::vector<float>& x) {
  F16Row row{0, std::vector<uint16_t>(x.size())};
  EncodeF16Row(x.data(), std::ssize(x), row.exponent, row.halves.data());
  return row;
}

struct Q8Row {
  std::vector<uint16_t> scales;
  std::vector<int8_t> codes;
  bool operator==(const Q8Row&) const = default;
};

Q8Row EncodedQ8(const std::vector<float>& x) {
  Q8Row row{std::vector<uint16_t>(static_cast<size_t>(Q8Scales(std::ssize(x)))),
            std::vector<int8_t>(x.size())};
  EncodeQ8Row(x.data(), std::ssize(x), row.scales.data(), row.codes.data());
  return row;
}

double LargestMagnitude(const std::vector<float>& x) {
  double most = 0;
  for (const float value : x) most = std::max(most, std::abs(double{value}));
  return most;
}

/// The rule of row_format.h in double, whose products and quotients by powers of two are exact.
F16Row F16ByDefinition(const std::vector<float>& x) {
  const double most = LargestMagnitude(x);
  int exponent = 0;
  std::frexp(most, &exponent);  // most in [2^(exponent - 1), 2^exponent).
  if (most < 0x1p-126) exponent = -200;
  F16Row row;
  row.exponent = static_cast<int8_t>(std::clamp(exponent - 1 - 14, kF16ExponentMin, kF16ExponentMax));
  for (const float value : x) {
    const double scaled = std::ldexp(double{value}, -row.exponent);
    int of_value = 0;
    std::frexp(scaled, &of_value);
    const double unit = std::ldexp(1.0, std::max(of_value - 1, -14) - 10);
    const double rounded = std::nearbyint(scaled / unit) * unit;  // To nearest, ties to even.
    row.halves.push_back(F32ToF16(static_cast<float>(rounded)));  // Exact now.
  }
  return row;
}

Q8Row Q8ByDefinition(const std::vector<float>& x) {
  Q8Row row;
  for (size_t begin = 0; begin < x.size(); begin += 32) {
    const std::vector<float> part(x.begin() + static_cast<int64_t>(begin),
                                  x.begin() + static_cast<int64_t>(std::min(begin + 32, x.size())));
    const auto most = static_cast<float>(LargestMagnitude(part));
    uint16_t scale = 0;
    if (double{most} >= 127 * 0x1p-126) {
      const float exact = most / 127.0f;
      scale = F32ToBF16(exact);
      if (BF16ToF32(scale) < exact) ++scale;
      if (scale > 0 && BF16ToF32(static_cast<uint16_t>(scale - 1)) >= exact) --scale;
    }
    row.scales.push_back(scale);
    for (const float value : part) {
      row.codes.push_back(scale == 0 ? int8_t{0}
                                     : static_cast<int8_t>(std::nearbyint(value / BF16ToF32(scale))));
    }
  }
  return row;
}

/// Rows whose magnitudes are spread over many powers of two, some with zeros, subnormal numbers and outliers.
std::vector<float> RandomRow(RandomStream& random, size_t size) {
  std::vector<float> x(size);
  const int center = static_cast<int>(random.below(240)) - 120;
  const int spread = 1 + static_cast<int>(random.below(40));
  for (float& value : x) {
    const int exponent = std::clamp(center - static_cast<int>(random.below(spread)), -149, 126);
    const double mantissa = 1.0 + static_cast<double>(random.below(1u << 23)) / (1u << 23);
    value = static_cast<float>(std::ldexp(random.below(2) == 0 ? mantissa : -mantissa, exponent));
    if (random.below(20) == 0) value = random.below(2) == 0 ? 0.0f : -0.0f;
  }
  return x;
}

TEST(RowFormat, HasTheBitsOfItsDefinition) {
  RandomStream random(7);
  for (int round = 0; round < 3000; ++round) {
    const std::vector<float> x = RandomRow(random, 1 + random.below(130));
    ASSERT_TRUE(RowFits(x.data(), std::ssize(x)));
    ASSERT_EQ(EncodedF16(x), F16ByDefinition(x)) << round;
    ASSERT_EQ(EncodedQ8(x), Q8ByDefinition(x)) << round;
  }
}

TEST(RowFormat, TiesGoToTheEvenNumber) {
  // The largest is 2^14, so the unit of f16 there is 16, and that of values in [2^11, 2^12) is 2.
  const F16Row row = EncodedF16({0x1p14f, 16384 + 8, 16384 + 24, 2049, 2051});
  EXPECT_EQ(row.exponent, 0);
  std::vector<float> back(5);
  ASSERT_TRUE(DecodeF16Row(row.exponent, row.halves.data(), 5, back.data()));
  EXPECT_EQ(back, (std::vector<float>{16384, 16384, 16416, 2048, 2052}));
  const Q8Row codes = EncodedQ8({127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -127});
  EXPECT_EQ(codes.codes, (std::vector<int8_t>{127, 0, 2, 2, 0, -2, -127}));
}

TEST(RowFormat, DecodedRowsAreWithinHalfAUnitOfTheirs) {
  RandomStream random(8);
  for (int round = 0; round < 1000; ++round) {
    const std::vector<float> x = RandomRow(random, 100);
    std::vector<float> back(x.size());
    const F16Row half = EncodedF16(x);
    ASSERT_TRUE(DecodeF16Row(half.exponent, half.halves.data(), std::ssize(x), back.data()));
    // Below 2^-14 of the range that the exponent chose, 2^-24 is the unit.
    const double smallest = std::ldexp(1.0, half.exponent - 25);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_LE(std::abs(double{back[i]} - x[i]), std::max(std::abs(double{x[i]}) * 0x1p-11, smallest));
    }
    const Q8Row code = EncodedQ8(x);
    ASSERT_TRUE(DecodeQ8Row(code.scales.data(), code.codes.data(), std::ssize(x), back.data()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double scale = BF16ToF32(code.scales[i / 32]);
      // A quotient beside a tie may have been rounded to it; values without a scale are below its least.
      ASSERT_LE(std::abs(double{back[i]} - x[i]), std::max(scale * (0.5 + 0x1p-17), 127 * 0x1p-126));
    }
  }
}

TEST(RowFormat, TheLargestAndTheSmallestValuesSurvive) {
  const float largest = std::nextafter(kRowValueLimit, 0.0f);
  for (const float value : {largest, -largest, 70000.0f, 1e-30f, 0x1p-100f}) {
    const std::vector<float> x = {value, 0};
    ASSERT_TRUE(RowFits(x.data(), 2));
    std::vector<float> back(2);
    const F16Row half = EncodedF16(x);
    ASSERT_TRUE(DecodeF16Row(half.exponent, half.halves.data(), 2, back.data())) << value;
    EXPECT_LE(std::abs(double{back[0]} - value), std::abs(double{value}) * 0x1p-11) << value;
    const Q8Row code = EncodedQ8(x);
    ASSERT_TRUE(DecodeQ8Row(code.scales.data(), code.codes.data(), 2, back.data())) << value;
    EXPECT_LE(std::abs(double{back[0]} - value), std::abs(double{value}) / 127) << value;
    EXPECT_EQ(back[1], 0);
  }
}

TEST(RowFormat, AnOutlierCostsItsOwnColumnsAlone) {
  std::vector<float> x(96, 1.0f);
  x[40] = 1e6f;
  const Q8Row row = EncodedQ8(x);
  std::vector<float> back(x.size());
  ASSERT_TRUE(DecodeQ8Row(row.scales.data(), row.codes.data(), std::ssize(x), back.data()));
  EXPECT_NEAR(back[0], 1, 0.005);
  EXPECT_EQ(back[33], 0);  // Beside the outlier.
  EXPECT_NEAR(back[95], 1, 0.005);
}

TEST(RowFormat, ValuesThatNoFormatHoldsAreFound) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad :
       {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(), kRowValueLimit, -kRowValueLimit}) {
    const std::vector<float> x = {1, bad, 2};
    EXPECT_FALSE(RowFits(x.data(), 3)) << bad;
    EXPECT_TRUE(RowFits(x.data(), 1)) << bad;
  }
}

TEST(RowFormat, WhatNoEncoderWritesIsRefused) {
  std::vector<float> x(2);
  const std::vector<uint16_t> halves = {0x3c00, 0x0001};
  EXPECT_TRUE(DecodeF16Row(0, halves.data(), 2, x.data()));
  EXPECT_FALSE(DecodeF16Row(kF16ExponentMax + 1, halves.data(), 2, x.data()));
  EXPECT_FALSE(DecodeF16Row(kF16ExponentMin - 1, halves.data(), 2, x.data()));
  for (const uint16_t bad : {0x7c00, 0xfc00, 0x7e00, 0x7c01}) {
    const std::vector<uint16_t> with = {0x3c00, bad};
    EXPECT_FALSE(DecodeF16Row(0, with.data(), 2, x.data())) << bad;
  }
  const std::vector<int8_t> codes = {-128, 127};
  for (const uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0x8000, 0xbf80, 0x7b83}) {
    EXPECT_FALSE(DecodeQ8Row(&bad, codes.data(), 2, x.data())) << bad;
  }
  const uint16_t largest = 0x7b82;
  ASSERT_TRUE(DecodeQ8Row(&largest, codes.data(), 2, x.data()));
  EXPECT_TRUE(std::isfinite(x[0]) && std::isfinite(x[1]));
}

// Bits of fixed inputs: x86-64 and ARM compute the same.
TEST(RowFormat, HasTheSameBitsOnEveryMachine) {
  uint64_t hash = 1469598103934665603u;
  const auto add = [&hash](auto value) { hash = (hash ^ static_cast<uint16_t>(value)) * 1099511628211u; };
  for (uint32_t row = 0; row < 64; ++row) {
    std::vector<float> x(80);
    for (uint32_t i = 0; i < 80; ++i) {
      const uint32_t mixed = (row * 80 + i + 1) * 2654435761u;
      x[i] = std::bit_cast<float>((mixed & 0x807fffffu) | ((100 + mixed % 50) << 23));
    }
    const F16Row half = EncodedF16(x);
    add(half.exponent);
    for (const uint16_t value : half.halves) add(value);
    const Q8Row code = EncodedQ8(x);
    for (const uint16_t value : code.scales) add(value);
    for (const int8_t value : code.codes) add(value);
  }
  EXPECT_EQ(hash, 1832585418224750107u);
}

}  // namespace
}  // namespace shoal
