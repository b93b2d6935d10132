// Kimi Delta Attention under the names that checkpoints have for it.
#pragma once

#include <cstdint>
#include <string>

#include "models/spec.h"

namespace shoal {

/// Its sizes, heads being alike, and what is the same in every such layer. taps: of the convolutions.
GatedDeltaNetSpec KdaOf(int64_t heads, int64_t head_dim, int64_t taps);

/// q_proj, k_proj, v_proj, b_proj, A_log, dt_bias, o_norm and o_proj below `base`. Convolutions and gates (a, z) differ from
/// family to family.
GatedDeltaNetSpec KdaAt(const std::string& base, int64_t width, float eps, GatedDeltaNetSpec kda);

}  // namespace shoal
