// How the rows of a step lie between the states of its sequences.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "compute/blocks/mixer_step.h"
#include "compute/stage_step.h"
#include "cpu/arena.h"
#include "kv/kv_cache.h"

namespace shoal {

/// The rows of all slices, cut where states are written.
std::span<const StateSpan> StateSpansOf(Arena& arena, std::span<const StepSlice> slices);

/// FailedPrecondition: a slot that a slice begins with holds no state, or that of another position.
absl::Status CheckStates(const KvCache& cache, std::span<const StepSlice> slices);

}  // namespace shoal
