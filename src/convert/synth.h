// Random checkpoints of any config: for tests, benchmarks and bug reports that must not carry anyone's
// weights.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "convert/synth_tensors.h"
#include "formats/mlx_quant.h"
#include "numeric/dtype.h"

namespace shoal {

struct SynthOptions {
  std::string config_json;        ///< Text of a config.json.
  std::string out;                ///< Folder to make; must not exist or be empty.
  std::optional<int64_t> layers;  ///< Replaces num_hidden_layers.
  std::optional<AffineFormat>
      quantization;            ///< MLX affine; routers get 8 bits in groups of 64, as mlx-lm makes them.
  DType dtype = DType::kBF16;  ///< Of plain weights, norms, scales and biases: bf16, f16 or f32.
  uint64_t seed = 1;
  int64_t file_bytes_max =
      int64_t{4} << 30;  ///< A file ends before it grows beyond this, where more than one tensor is in it.
  bool with_tokenizer = true;  ///< Needs vocab_size >= 259: 256 bytes and 3 special tokens.
};

/// Called with the bytes written so far and in all.
using ProgressFn = std::function<void(int64_t done, int64_t total)>;

/// Writes config.json, generation_config.json, model.safetensors (or shards and their index) under the names
/// of the hub (MLX's stacked switch_mlp where quantized), and a byte-level tokenizer with a chat template, so
/// that the folder can be served. The values depend on seed and tensor alone: a quantized folder holds the
/// quantized values of the plain one of the same seed, whatever the sharding. Weights are scaled so that
/// logits have a standard deviation of about 2. A matrix whose columns are not a multiple of the group stays
/// plain, as mlx-lm leaves it. InvalidArgument for a config that is not understood, FailedPrecondition for a
/// folder in use, ResourceExhausted for a full disk. Memory: a few tens of MB whatever the size.
/// Callers use SynthesizeModel (convert/synth_model.h), which knows a family's tensors.
absl::Status Synthesize(const SynthOptions& options, const ListTensorsFn& list,
                        const ProgressFn& progress = {});

/// config.json of a named shape: "A" is Qwen3-1.7B, "B" is Qwen3-30B-A3B cut to 6 layers. InvalidArgument for
/// others. Source: https://huggingface.co/Qwen/Qwen3-1.7B and Qwen3-30B-A3B, config.json.
absl::StatusOr<std::string> SynthPreset(std::string_view name);

}  // namespace shoal
