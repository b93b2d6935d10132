#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "numeric/byte_planes.h"
#include "numeric/fixed_sum.h"
#include "numeric/memory.h"
#include "numeric/rope_table.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

// |got - want| in units of the last place of `want`. In long double, so that the reference's own error is
// small.
double UlpError(double got, long double want) {
  const double rounded = static_cast<double>(want);
  const double magnitude = std::fabs(rounded);
  const double ulp = std::nextafter(magnitude, std::numeric_limits<double>::infinity()) - magnitude;
  return static_cast<double>(std::fabs(static_cast<long double>(got) - want) / static_cast<long double>(ulp));
}

double Uniform(RandomStream& random, double low, double high) {
  return low + (high - low) * random.uniform();
}

TEST(Transcendental, ExpIsWithinOneUlp) {
  RandomStream random(1);
  for (int i = 0; i < 100000; ++i) {
    const double x = Uniform(random, -700, 700);
    ASSERT_LE(UlpError(Exp(x), std::exp(static_cast<long double>(x))), 1.0) << x;
  }
}

TEST(Transcendental, ExpOverflowsToInfinityAndUnderflowsToZero) {
  EXPECT_EQ(Exp(0), 1.0);
  EXPECT_EQ(Exp(710), std::numeric_limits<double>::infinity());
  EXPECT_EQ(Exp(-746), 0.0);
  EXPECT_EQ(Exp(-745), std::exp(-745.0));  // The second smallest subnormal.
  EXPECT_TRUE(std::isnan(Exp(std::nan(""))));
}

TEST(Transcendental, LogIsWithinOneUlp) {
  RandomStream random(2);
  for (int i = 0; i < 100000; ++i) {
    const double x = Exp(Uniform(random, -700, 700)) * Uniform(random, 0.5, 2);
    ASSERT_LE(UlpError(Log(x), std::log(static_cast<long double>(x))), 1.0) << x;
  }
  EXPECT_EQ(Log(1), 0.0);
  EXPECT_EQ(Log(0), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(Log(-1)));
}

TEST(Transcendental, SinAndCosAreWithinOneUlpOverTheirDomain) {
  RandomStream random(3);
  for (int i = 0; i < 100000; ++i) {
    const double bound = i % 2 == 0 ? 10 : kTrigArgumentMax;
    const double x = Uniform(random, -bound, bound);
    ASSERT_LE(UlpError(Sin(x), std::sin(static_cast<long double>(x))), 1.0) << x;
    ASSERT_LE(UlpError(Cos(x), std::cos(static_cast<long double>(x))), 1.0) << x;
  }
}

TEST(TranscendentalDeathTest, TrigRefusesAnglesItCannotReduce) { EXPECT_DEATH(Sin(1e7), "kTrigArgumentMax"); }

TEST(Transcendental, PowStaysWithinItsErrorBound) {
  RandomStream random(4);
  for (int i = 0; i < 100000; ++i) {
    const double base = Exp(Uniform(random, -20, 20));
    const double exponent = Uniform(random, -5, 5);
    // In ulp: a relative error of 2^-52 is at most two.
    const double bound = 2 * (1 + std::fabs(exponent * std::log(base)));
    ASSERT_LE(UlpError(Pow(base, exponent), std::pow(static_cast<long double>(base), exponent)), bound);
  }
}

TEST(Transcendental, TanhIsWithinThreeUlp) {
  RandomStream random(5);
  for (int i = 0; i < 100000; ++i) {
    const double x = Uniform(random, -20, 20) * (i % 2 == 0 ? 1 : 0.05);
    ASSERT_LE(UlpError(Tanh(x), std::tanh(static_cast<long double>(x))), 3.0) << x;
  }
  EXPECT_EQ(Tanh(1000), 1.0);
  EXPECT_EQ(Tanh(-1000), -1.0);
}

TEST(RopeTable, IsTheRoundedCosineOfTheRoundedAngle) {
  const std::vector<float> frequencies = RopeInverseFrequencies(1e6, 128);
  ASSERT_EQ(frequencies.size(), 64u);
  EXPECT_EQ(frequencies[0], 1.0f);
  std::vector<float> cosine(64), sine(64);
  for (const int64_t position : {0, 1, 77, 4096, 131071, 1000000}) {
    RopeRow(frequencies, position, 1.0f, cosine.data(), sine.data());
    for (size_t i = 0; i < 64; ++i) {
      const double true_frequency = std::pow(1e6, -2.0 * static_cast<double>(i) / 128);
      // Two roundings: of the power and of its reciprocal.
      ASSERT_NEAR(frequencies[i], true_frequency, 4 * 0x1p-24 * true_frequency);
      const float angle = static_cast<float>(position) * frequencies[i];
      ASSERT_EQ(cosine[i], static_cast<float>(std::cos(static_cast<long double>(angle))));
      ASSERT_EQ(sine[i], static_cast<float>(std::sin(static_cast<long double>(angle))));
    }
  }
}

TEST(FixedSum, RoundsToNearestEvenAtTheUnit) {
  EXPECT_EQ(FixedFromFloat(0x1p-40f), 1);
  EXPECT_EQ(FixedFromFloat(0x1p-41f), 0);    // A tie rounds to even: down here,
  EXPECT_EQ(FixedFromFloat(0x1.8p-40f), 2);  // and up here.
  EXPECT_EQ(FixedFromFloat(-0x1.8p-40f), -2);
  EXPECT_EQ(FixedFromFloat(0x1.4p-39f), 2);
  EXPECT_EQ(FixedFromFloat(0x1.000002p11f), (int64_t{1} << 51) + (int64_t{1} << 28));
  EXPECT_EQ(FixedFromFloat(-0x1.fffffep17f), -((int64_t{1} << 58) - (int64_t{1} << 34)));
}

TEST(FixedSum, TheLargestAllowedSumDoesNotWrap) {
  const float largest = std::nextafter(kFixedTermLimit, 0.0f);
  ASSERT_TRUE(FixedTermFits(largest));
  int64_t sum = 0;
  for (int i = 0; i < kFixedTermsMax; ++i) {
    ASSERT_FALSE(__builtin_add_overflow(sum, FixedFromFloat(largest), &sum));
  }
  EXPECT_FALSE(FixedTermFits(kFixedTermLimit));
  EXPECT_FALSE(FixedTermFits(std::nanf("")));
  EXPECT_FALSE(FixedTermFits(-std::numeric_limits<float>::infinity()));
}

TEST(BytePlanes, RestoreEveryRowFromTheFewestBytes) {
  RandomStream random(6);
  for (int width = 1; width <= 8; ++width) {
    const int64_t n = 37;
    std::vector<int64_t> values(n);
    for (int64_t& value : values) value = static_cast<int64_t>(random.bits()) >> (64 - 8 * width);
    values[5] = INT64_MIN >> (64 - 8 * width);  // The extreme that just fits.
    const int expected = std::max(width, kBytePlanesMin);
    ASSERT_EQ(BytePlanesWidth(values.data(), n), expected);
    std::vector<uint8_t> bytes(static_cast<size_t>(n * expected));
    EncodeBytePlanes(values.data(), n, expected, bytes.data());
    std::vector<int64_t> back(n);
    DecodeBytePlanes(bytes.data(), n, expected, back.data());
    EXPECT_EQ(back, values);
  }
}

TEST(AlignedMemory, IsZeroAndAlignedBelowAndAboveAHugePage) {
  for (const int64_t bytes : {int64_t{1}, int64_t{100}, kHugePageBytes, kHugePageBytes + 1}) {
    const AlignedMemory memory = *AlignedMemory::Allocate(bytes);
    ASSERT_EQ(memory.bytes(), bytes);
    const int64_t alignment = bytes < kHugePageBytes ? 64 : kHugePageBytes;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % static_cast<uintptr_t>(alignment), 0u);
    for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(memory.data()[i], std::byte{0});
  }
}

TEST(AlignedMemory, MovingKeepsTheAddress) {
  AlignedMemory first = *AlignedMemory::Allocate(64);
  std::byte* data = first.data();
  AlignedMemory second = std::move(first);
  EXPECT_EQ(second.data(), data);
}

TEST(AlignedMemory, RefusesMoreThanTheAddressSpaceHolds) {
  const auto memory = AlignedMemory::Allocate(int64_t{1} << 60);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace shoal
