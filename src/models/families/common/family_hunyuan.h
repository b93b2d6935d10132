// What the Hunyuan models have in common. Reference: transformers models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py.
#pragma once

#include "absl/status/statusor.h"
#include "formats/config.h"
#include "models/families/common/family_common.h"

namespace shoal {

/// Attention whose queries and keys are normed after rope. The rope that its configs call "dynamic" is not: with `alpha`
/// theta is multiplied by alpha^(d / (d - 2)), whatever the position.
absl::StatusOr<MakeMixer> ReadHunyuanAttention(const ModelConfig& config, const DecoderSizes& sizes);

}  // namespace shoal
