// The version of this build's arithmetic. Nodes of different versions would compute different bits, so they
// refuse to work together.
#pragma once

#include <cstdint>

namespace shoal {

/// Incremented by every change that can change a bit of a logit: the order of a sum, a rounding, a table, the
/// fixed-point scale.
inline constexpr uint32_t kNumericsVersion = 1;

}  // namespace shoal
