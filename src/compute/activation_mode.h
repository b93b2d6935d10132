// How activations meet quantized weights.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// int8 per group (default), or exact f32 (the oracle path, slow).
enum class ActivationMode : uint8_t { kInt8, kF32 };
absl::StatusOr<ActivationMode> ParseActivationMode(std::string_view name);  ///< "int8" | "f32"

}  // namespace shoal
