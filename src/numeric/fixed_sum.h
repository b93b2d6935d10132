// The order-free sum of expert outputs: every term is rounded once to a 64-bit fixed-point number, and
// integers are added. So whoever holds which expert, in whatever order replies arrive, the sum is the same.
//
// The one scale, and why its range suffices
//   unit 2^-40: an f32 of magnitude >= 2^-17 has no bits below it, so such terms are exact; smaller ones lose
//   at most 2^-41 = 4.5e-13, which is below half an ulp of every sum larger than 7.6e-6 in magnitude. |term|
//   < 2^18: hidden states of known models stay below 2^16 in every channel (the "massive activations" of
//   large models are around 10^4, Sun et al. 2024, arXiv:2402.17762), and a term is one weighted expert
//   output. 31 terms of magnitude < 2^18 sum to < 2^23, that is to integers below 31 * 2^58 < 2^63: no
//   wrap-around. A model with more than 31 routed experts per token is refused when it is built.
#pragma once

#include <bit>
#include <cstdint>

namespace shoal {

inline constexpr float kFixedScale = 0x1p40f;
inline constexpr float kFixedUnit = 0x1p-40f;
/// A term at or beyond this magnitude (or NaN) is an error, never a wrapped sum.
inline constexpr float kFixedTermLimit = 0x1p18f;
/// Terms that may be summed into one accumulator.
inline constexpr int kFixedTermsMax = 31;

/// Whether `term` may be added.
constexpr bool FixedTermFits(float term) { return -kFixedTermLimit < term && term < kFixedTermLimit; }

/// round_to_even(term * 2^40); FixedTermFits(term) holds.
constexpr int64_t FixedFromFloat(float term) {
  const double scaled = static_cast<double>(term) * 0x1p40;  // Exact: a power of two.
  // From 2^51 on, 24 significant bits leave no fraction. Below, adding 1.5 * 2^52 rounds to an integer.
  if (scaled >= 0x1p51 || scaled <= -0x1p51) return static_cast<int64_t>(scaled);
  constexpr double kMagic = 0x1.8p52;
  return static_cast<int64_t>((scaled + kMagic) - kMagic);
}

/// acc * 2^-40 with one rounding.
constexpr float FloatFromFixed(int64_t acc) { return static_cast<float>(acc) * kFixedUnit; }

}  // namespace shoal
