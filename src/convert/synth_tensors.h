// The tensors of a checkpoint to be written: input of Synthesize, which knows no models.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/config.h"

namespace shoal {

struct SynthTensor {
  enum class Kind { kMatrix, kRouter, kVector };
  Kind kind = Kind::kMatrix;
  std::string base;               ///< "model.layers.0.mlp.gate"
  std::string suffix = "weight";  ///< The tensor is `<base>.<suffix>`.
  int64_t rows = 0;               ///< N; 0 for a vector.
  int64_t cols = 0;               ///< K, or the length of a vector.
  std::vector<int64_t> shape;     ///< Of a vector that is stored under another shape, else empty.
  int64_t choices = 0;  ///< Above 0: a vector of ids below it, distinct in each row of `shape`, as f32.
  double mean = 0;
  double deviation = 0;  ///< Standard deviation of the values.
  int64_t experts = 0;   ///< Above 0: a stack [experts, rows, cols], or [experts, cols] of vectors.
  /// base empty: the suffix alone.
  std::string name() const { return base.empty() ? suffix : base + "." + suffix; }
  std::vector<std::string>
      seeds;  ///< Names that decide the values: the tensor's own, or one for each expert of a stack.
};

/// All tensors of a config, each once. `stacked`: experts as MLX's switch_mlp, else one tensor each.
using ListTensorsFn =
    std::function<absl::StatusOr<std::vector<SynthTensor>>(const ModelConfig& config, bool stacked)>;

}  // namespace shoal
