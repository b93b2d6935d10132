// Whether a request fits an engine.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "exec/engine.h"
#include "sched/request.h"

namespace shoal {

/// OK if an engine may have such limits; else Internal with the numbers.
absl::Status CheckLimits(const EngineLimits& limits);

/// OK if `request` can be served by an engine with `limits`; else InvalidArgument with the numbers, or with
/// an id that the model does not know: a tokenizer may have more tokens than the model.
absl::Status CheckFits(const GenerationRequest& request, const EngineLimits& limits);

/// Longest prompt + output that CheckFits lets pass: bounded by the model's context and by the whole cache.
int64_t PositionsMax(const EngineLimits& limits);

}  // namespace shoal
