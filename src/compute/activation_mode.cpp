#include "compute/activation_mode.h"

#include "base/status.h"

namespace shoal {

absl::StatusOr<ActivationMode> ParseActivationMode(std::string_view name) {
  if (name == "int8") return ActivationMode::kInt8;
  if (name == "f32") return ActivationMode::kF32;
  return InvalidArgument("activations '{}' are unknown; int8 and f32 are known", name);
}

}  // namespace shoal
