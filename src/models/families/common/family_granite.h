// What the Granite models have in common. Reference: transformers models/granite/modeling_granite.py.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"
#include "models/families/common/family_moe.h"
#include "models/spec.h"

namespace shoal {

/// Attention without windows, with biases where attention_bias says so.
absl::StatusOr<AttentionSettings> ReadGraniteAttention(const ModelConfig& config, const DecoderSizes& sizes);

/// num_local_experts and their kin, whose router takes the softmax over the chosen.
absl::StatusOr<MoeSettings> ReadGraniteExperts(const ModelConfig& config, const DecoderSizes& sizes);

/// The experts below `base`, which the hub has as two stacks, `input_linear` [E, 2F, D], gate first, and `output_linear`
/// [E, D, F]; and their router.
MoeSpec GraniteExpertsAt(const std::string& base, int64_t width, const MoeSettings& parts);

/// The factors on embeddings, on what layers add, on scores (instead of 1 / sqrt(head_dim)) and on logits. Each is 1 where
/// absent, as in the reference.
absl::Status ApplyGraniteMultipliers(const ModelConfig& config, ModelSpec& spec);

}  // namespace shoal
