// The order-free sum of expert outputs: every term is rounded once to a 64-bit fixed-point number, then
// integers are added. The sum does not depend on which node holds which expert, nor on the order of replies.
//
// Why one scale suffices:
//   unit 2^-40     An f32 of magnitude >= 2^-17 has no bits below the unit, so it is exact. A smaller term
//                  loses at most 2^-41 = 4.5e-13: less than half an ulp of every sum above 7.6e-6.
//   |term| < 2^18  A term is one weighted expert output. Hidden states of known models stay below 2^16 in
//                  every channel: "massive activations" are around 10^4 (Sun et al. 2024, arXiv:2402.17762).
//   31 terms       31 terms below 2^18 sum to integers below 31 * 2^58 < 2^63, so nothing wraps around. A
//                  model with more than 31 routed experts per token is refused when it is built.
#pragma once

#include <bit>
#include <cstdint>

namespace shoal {

inline constexpr float kFixedScale = 0x1p40f;
inline constexpr float kFixedUnit = 0x1p-40f;
/// A term at or beyond this magnitude (or NaN) is an error, never a wrapped sum.
inline constexpr float kFixedTermLimit = 0x1p18f;
/// How many terms one accumulator can hold.
inline constexpr int kFixedTermsMax = 31;

/// Whether `term` may be added. False for NaN.
constexpr bool FixedTermFits(float term) { return -kFixedTermLimit < term && term < kFixedTermLimit; }

/// round_to_even(term * 2^40). Requires FixedTermFits(term).
constexpr int64_t FixedFromFloat(float term) {
  const double scaled = static_cast<double>(term) * 0x1p40;  // Exact: a power of two.
  // From 2^51 on, the 24 significant bits leave no fraction. Below, adding 1.5 * 2^52 rounds to an integer.
  if (scaled >= 0x1p51 || scaled <= -0x1p51) return static_cast<int64_t>(scaled);
  constexpr double kMagic = 0x1.8p52;
  return static_cast<int64_t>((scaled + kMagic) - kMagic);
}

/// acc * 2^-40, rounded once.
constexpr float FloatFromFixed(int64_t acc) { return static_cast<float>(acc) * kFixedUnit; }

}  // namespace shoal
