// Mamba layers under the names that configs and checkpoints have for them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "formats/config.h"
#include "models/spec.h"

namespace shoal {

/// The keys of a family's config.
struct Mamba2Keys {
  const char* heads = "mamba_n_heads";
  const char* head_dim = "mamba_d_head";
  const char* groups = "mamba_n_groups";
  const char* state_dim = "mamba_d_state";
  const char* taps = "mamba_d_conv";
  const char* conv_bias = "mamba_conv_bias";
  const char* projection_bias = "mamba_proj_bias";
};

/// What a config says of such layers; tensors are named by Mamba2At.
struct Mamba2Settings {
  Mamba2Spec sizes;
  bool conv_bias = false;
  bool projection_bias = false;
};
absl::StatusOr<Mamba2Settings> ReadMamba2(const ModelConfig& config, const Mamba2Keys& keys);

/// The logarithms of decays of that many heads below `base`: A_log, or what a GGUF has instead.
WeightRef DecayLogAt(const std::string& base, int64_t heads);

/// Rows of a projection of `stored` rows, and of its bias where it has one.
LinearSpec InProjectionPart(const std::string& base, int64_t stored, Range rows, int64_t width, bool bias);

/// Taps [channels * width] of the causal convolution `base`: [channels, 1, width] on the hub, [channels, width, 1] in MLX's
/// folders.
WeightRef ConvTapsAt(const std::string& base, int64_t channels, int64_t width);

/// in_proj (gate, x, B, C and steps in one), conv1d, A_log, dt_bias, D, norm and out_proj below `base`.
Mamba2Spec Mamba2At(const std::string& base, int64_t width, float eps, const Mamba2Settings& settings);

/// Gives weights the names of the first models: `backbone.` for `model.`, embeddings, norm_f, and one `norm` a layer.
void NameAsBackbone(ModelSpec& spec);

}  // namespace shoal
