// How much longer contexts sharpen queries.
#pragma once

#include <cstdint>

namespace shoal {

/// A query at position p is multiplied by 1 + beta ln(1 + floor((p + shift) / interval)).
/// Source: transformers `get_llama_4_attn_scale` of Ministral 3 (shift 0); Llama 4's `attn_temperature_tuning` (1).
struct QueryTemperature {
  double beta = 0;  ///< 0: queries stay as they are.
  int64_t interval = 1;
  int64_t shift = 0;
};

}  // namespace shoal
