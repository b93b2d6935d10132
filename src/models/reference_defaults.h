// What the reference takes for keys that a config leaves out.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "formats/config.h"

namespace shoal {

/// The config with the reference's values for keys that it lacks, as far as they are known of that model_type: theta,
/// epsilon, activation, context and ties. Sizes are never made up, except that there may be as
/// many key heads as heads. Which were taken is one line in the log, once for each file.
/// Source: the configuration classes of transformers 5.24.
absl::StatusOr<ModelConfig> WithReferenceDefaults(const ModelConfig& config, std::string_view model_type);

}  // namespace shoal
