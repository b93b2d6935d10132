// exp, log, sin, cos, pow and tanh in double precision, made of + - * / alone: the same bits with every
// compiler, CPU and libm. glibc chooses its variants by CPU, so code that computes rows may not call libm
// (tools/tidy/check_libm.py). These functions serve tables, sampling, and gates outside inner loops; kernels
// have an f32 exp of their own (kernels/reference.cpp).
#pragma once

namespace shoal {

/// e^x, within 1 ulp. Overflows to infinity, underflows through subnormals to 0.
double Exp(double x);

/// Natural logarithm, within 1 ulp. Log(0) = -infinity, NaN for x < 0.
double Log(double x);

/// Within 1 ulp for |x| <= kTrigArgumentMax, which is CHECKed. Positions times frequencies <= 1 stay below
/// it.
double Sin(double x);
double Cos(double x);
inline constexpr double kTrigArgumentMax = 1.6e6;

/// base^exponent for base > 0 (CHECKed), with relative error <= 2^-52 * (1 + |exponent * ln(base)|): enough
/// for a correct f32.
double Pow(double base, double exponent);

/// Hyperbolic tangent, within 3 ulp.
double Tanh(double x);

}  // namespace shoal
