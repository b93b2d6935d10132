// Presents weights that Hugging Face folders keep in several tensors as one tensor each:
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
/// for messages. InvalidArgument where the tensors are not as quantization_config says, Unimplemented for
/// what the packed layout cannot hold exactly; both say what to do. MLX affine weights are left alone
/// (mlx_quant.h).
absl::Status FoldEncodedTensors(const ModelConfig& config,
                                const std::function<std::string(int file)>& file_name,
                                std::vector<TensorInfo>* tensors);

}  // namespace shoal
