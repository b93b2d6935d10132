// Weights that Hugging Face folders keep in several tensors, as one tensor in the table of a checkpoint:
// codes and scales of MLX's mxfp4, nvfp4 and mxfp8, of DeepSeek's FP8 blocks, of GPTQ, AWQ and
// compressed-tensors.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "formats/config.h"
#include "formats/safetensors.h"

namespace shoal {

/// Replaces the tensors of an encoded weight by one, named `<base>.weight`, of the weight's logical shape and
/// with `blocks` and `parts` set. tensors: sorted by name, and left so. file_name: of the file with an index,
/// for messages. What the config's quantization_config announces but the tensors do not show, or what has no
/// exact place in the packed layout, is InvalidArgument or Unimplemented, with what to do. MLX affine weights
/// are left alone (mlx_quant.h).
absl::Status FoldEncodedTensors(const ModelConfig& config,
                                const std::function<std::string(int file)>& file_name,
                                std::vector<TensorInfo>* tensors);

}  // namespace shoal
