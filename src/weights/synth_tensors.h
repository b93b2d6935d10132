// The tensors of a config, by their hub names. Internal to weights/: only `shoal synth` writes checkpoints,
// and what it writes is judged by the families' own load checks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weights/config.h"

namespace shoal {

struct SynthTensor {
  enum class Kind { kMatrix, kRouter, kNorm, kBias };
  Kind kind = Kind::kMatrix;
  std::string base;      ///< "model.layers.0.mlp.gate"; ".weight" or ".bias" comes behind it.
  int64_t rows = 0;      ///< N; 0 for a vector.
  int64_t cols = 0;      ///< K, or the length of a vector.
  double deviation = 0;  ///< Standard deviation of the values (a norm's are around 1).
  int64_t experts = 0;   ///< Above 0: a stack [experts, rows, cols].
  std::vector<std::string>
      seeds;  ///< Names that decide the values: the tensor's own, or one for each expert of a stack.
};

/// All tensors, in the order of the forward pass. `stacked`: experts as MLX's switch_mlp, else one tensor
/// each. InvalidArgument names the key that is missing or the model_type that is not known.
absl::StatusOr<std::vector<SynthTensor>> ListSynthTensors(const ModelConfig& config, bool stacked);

}  // namespace shoal
