// What a mixer multiplies beside its weights.
#pragma once

#include <cstdint>

namespace shoal {

struct MixerWork {
  int64_t per_position = 0;  ///< Multiplications of one row with one position before it: scores, then values.
  int64_t per_row = 0;       ///< Of one row, whatever its position: passes over a state, convolutions.
  int64_t attended_max = 0;  ///< A row attends to so many positions at most, which it picks; 0: to all.
  int64_t per_scanned = 0;   ///< Of one row with one position before it, where there are more: for picking.
};

}  // namespace shoal
