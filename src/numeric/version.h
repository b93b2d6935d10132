// Which arithmetic this build does. Nodes that differ here would give other bits and refuse each other.
#pragma once

#include <cstdint>

namespace shoal {

/// Raised by every change that can move a bit of a logit: a kernel's chain, a rounding, a table, the
/// fixed-point scale.
inline constexpr uint32_t kNumericsVersion = 1;

}  // namespace shoal
