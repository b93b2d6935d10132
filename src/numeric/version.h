// The version of this build's arithmetic. Nodes of different versions would compute different bits, so they
// refuse to work together.
#pragma once

#include <cstdint>
#include <string>

namespace shoal {

/// Incremented by every change that can change a bit of a logit: the order of a sum, a rounding, a table, the
/// fixed-point scale.
inline constexpr uint32_t kNumericsVersion = 2;

/// The numerics class of our CPU kernels, of any instruction set and any number of threads. Two nodes give the
/// same bits if and only if their classes are the same text: another kind of device is another class, unless
/// its kernels give the very bits of these.
inline std::string CpuNumericsClass() { return "shoal-cpu/" + std::to_string(kNumericsVersion); }

}  // namespace shoal
