// What a step may ask of a node, and whether one that came over the wire keeps to it.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "exec/step.h"

namespace shoal {

/// What a step may ask of a node; the coordinator plans within it, and a node refuses what lies outside.
struct StepLimits {
  int64_t context = 0;  ///< Longest sequence, positions.
  int64_t vocabulary = 0;
  int32_t blocks = 0;       ///< KV blocks.
  int64_t rows_max = 4096;  ///< Rows of one step.
  int32_t state_slots = 0;  ///< States of sequences; 0: the model keeps none.
  /// ShortRopePositions of the model that the node holds; a node fills it in itself, as the vocabulary.
  int64_t short_rope_positions = std::numeric_limits<int64_t>::max();
  int64_t window = std::numeric_limits<int64_t>::max();  ///< VisiblePositions, likewise.
};

/// Whether a step that came over the wire makes sense here; one without rows does. Tokens outside the vocabulary
/// are no matter of the step, but of their sequence. InvalidArgument names sequence and field.
absl::Status ValidateStep(const Step& step, const StepLimits& limits);

}  // namespace shoal
