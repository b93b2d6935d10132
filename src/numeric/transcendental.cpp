// Compiled without contraction, so that each operation rounds as written.
// Source: argument reductions and polynomials of fdlibm (e_exp.c, e_log.c, k_sin.c, k_cos.c, e_rem_pio2.c),
// and of Cephes (S. Moshier) for tanh. fdlibm's notice:
//   Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved.
//   Developed at SunPro, a Sun Microsystems, Inc. business.
//   Permission to use, copy, modify, and distribute this software is freely granted, provided that this
//   notice is preserved.
#include "numeric/transcendental.h"

#include <bit>
#include <cstdint>
#include <limits>

#include "base/check.h"

namespace shoal {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits: k * kLn2High is exact for every exponent k.
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

double PowerOfTwo(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(exponent + 1023) << 52);
}

// Adding and subtracting 1.5 * 2^52 rounds |x| < 2^51 to the nearest integer, ties to even.
double RoundToInteger(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

struct ReducedAngle {
  double high;  ///< In about [-pi/4, pi/4].
  double low;   ///< The remainder, below half an ulp of `high`.
  int quadrant;
};

// x - n * pi/2, with pi/2 as a sum of three terms of 33, 33 and 53 bits. n < 2^20 keeps the first two
// products exact.
ReducedAngle ReduceAngle(double x) {
  SHOAL_CHECK(-kTrigArgumentMax <= x && x <= kTrigArgumentMax);
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHalfPi1 = 0x1.921fb544p0;
  constexpr double kHalfPi2 = 0x1.0b4611a6p-34;
  constexpr double kHalfPi3 = 0x1.3198a2e037073p-69;
  const double n = RoundToInteger(x * kTwoOverPi);
  const double first = x - n * kHalfPi1;
  const double second = n * kHalfPi2;
  const double rest = first - second;
  const double correction = n * kHalfPi3 - ((first - rest) - second);
  const double high = rest - correction;
  return {high, (rest - high) - correction, static_cast<int>(static_cast<int64_t>(n) & 3)};
}

double SinKernel(double x, double low) {
  constexpr double kS1 = -1.66666666666666324348e-01, kS2 = 8.33333333332248946124e-03;
  constexpr double kS3 = -1.98412698298579493134e-04, kS4 = 2.75573137070700676789e-06;
  constexpr double kS5 = -2.50507602534068634195e-08, kS6 = 1.58969099521155010221e-10;
  const double z = x * x;
  const double cube = z * x;
  const double r = kS2 + z * (kS3 + z * (kS4 + z * (kS5 + z * kS6)));
  return x - ((z * (0.5 * low - cube * r) - low) - cube * kS1);
}

double CosKernel(double x, double low) {
  constexpr double kC1 = 4.16666666666666019037e-02, kC2 = -1.38888888888741095749e-03;
  constexpr double kC3 = 2.48015872894767294178e-05, kC4 = -2.75573143513906633035e-07;
  constexpr double kC5 = 2.08757232129817482790e-09, kC6 = -1.13596475577881948265e-11;
  const double z = x * x;
  const double r = z * (kC1 + z * (kC2 + z * (kC3 + z * (kC4 + z * (kC5 + z * kC6)))));
  const double half = 0.5 * z;
  const double one_minus_half = 1.0 - half;
  return one_minus_half + (((1.0 - one_minus_half) - half) + (z * r - x * low));
}

}  // namespace

double Exp(double x) {
  if (x != x) return x;
  if (x > 709.782712893383973096) return kInfinity;
  if (x < -745.13321910194110842) return 0.0;
  constexpr double kP1 = 1.66666666666666019037e-01, kP2 = -2.77777777770155933842e-03;
  constexpr double kP3 = 6.61375632143793436117e-05, kP4 = -1.65339022054652515390e-06;
  constexpr double kP5 = 4.13813679705723846039e-08;
  const double n = RoundToInteger(x * 0x1.71547652b82fep0);  // x / ln 2
  const double high = x - n * kLn2High;
  const double low = n * kLn2Low;
  const double r = high - low;
  const double z = r * r;
  const double c = r - z * (kP1 + z * (kP2 + z * (kP3 + z * (kP4 + z * kP5))));
  const double y = 1.0 - ((low - (r * c) / (2.0 - c)) - high);
  // 2^n as two factors, since 2^1024 and the subnormal powers are not normal doubles. The first product is
  // exact, so the result is rounded once.
  const int exponent = static_cast<int>(n);
  const int half = exponent / 2;
  return y * PowerOfTwo(half) * PowerOfTwo(exponent - half);
}

double Log(double x) {
  if (x != x || x == kInfinity) return x;
  if (x == 0.0) return -kInfinity;
  if (x < 0.0) return kNan;
  int exponent = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    exponent = -54;
  }
  // x = 2^exponent * m with m in [sqrt(1/2), sqrt(2)).
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const uint32_t high_word = static_cast<uint32_t>(bits >> 32) + (0x3ff00000u - 0x3fe6a09eu);
  exponent += static_cast<int>(high_word >> 20) - 0x3ff;
  const uint64_t mantissa_high = (high_word & 0xfffffu) + 0x3fe6a09eu;
  const double m = std::bit_cast<double>((mantissa_high << 32) | (bits & 0xffffffffu));

  constexpr double kL1 = 6.666666666666735130e-01, kL2 = 3.999999999940941908e-01;
  constexpr double kL3 = 2.857142874366239149e-01, kL4 = 2.222219843214978396e-01;
  constexpr double kL5 = 1.818357216161805012e-01, kL6 = 1.531383769920937332e-01;
  constexpr double kL7 = 1.479819860511658591e-01;
  const double f = m - 1.0;
  const double half_square = 0.5 * f * f;
  const double s = f / (2.0 + f);
  const double z = s * s;
  const double w = z * z;
  const double even = w * (kL2 + w * (kL4 + w * kL6));
  const double odd = z * (kL1 + w * (kL3 + w * (kL5 + w * kL7)));
  const double k = exponent;
  return k * kLn2High - ((half_square - (s * (half_square + (odd + even)) + k * kLn2Low)) - f);
}

double Sin(double x) {
  const ReducedAngle angle = ReduceAngle(x);
  switch (angle.quadrant) {
    case 0:
      return SinKernel(angle.high, angle.low);
    case 1:
      return CosKernel(angle.high, angle.low);
    case 2:
      return -SinKernel(angle.high, angle.low);
    default:
      return -CosKernel(angle.high, angle.low);
  }
}

double Cos(double x) {
  const ReducedAngle angle = ReduceAngle(x);
  switch (angle.quadrant) {
    case 0:
      return CosKernel(angle.high, angle.low);
    case 1:
      return -SinKernel(angle.high, angle.low);
    case 2:
      return -CosKernel(angle.high, angle.low);
    default:
      return SinKernel(angle.high, angle.low);
  }
}

double Pow(double base, double exponent) {
  SHOAL_CHECK(base > 0.0);
  return Exp(exponent * Log(base));
}

double Tanh(double x) {
  const double magnitude = x < 0 ? -x : x;
  if (magnitude < 0.625) {
    const double z = x * x;
    const double p =
        (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3;
    const double q =
        ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3;
    return x + x * (z * (p / q));
  }
  const double y = 1.0 - 2.0 / (Exp(2.0 * magnitude) + 1.0);
  return x < 0 ? -y : y;
}

}  // namespace shoal
