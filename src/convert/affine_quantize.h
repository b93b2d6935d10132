// Quantizes rows to affine groups with the scales, biases and codes that mlx.core.quantize chooses.
#pragma once

#include <cstddef>
#include <span>

#include "formats/mlx_quant.h"
#include "numeric/dtype.h"

namespace shoal {

/// One row in MLX's layout (numeric/affine.h).
struct AffineRowOut {
  std::byte* words = nullptr;   ///< cols * bits / 8 bytes
  std::byte* scales = nullptr;  ///< cols / group elements of the dtype
  std::byte* biases = nullptr;
};

/// Quantizes one row; its size is a multiple of format.group, its values finite. Scales and biases are
/// rounded to `dtype` (f32, f16, bf16) after the codes were chosen, as MLX does. Per group, with n = 2^bits -
/// 1 and the edge being the end of the range with the larger magnitude:
///   scale = max((max - min) / n, 1e-7), negative where the edge is the maximum
///   q0 = round(edge / scale);  where q0 != 0: scale = edge / q0, bias = edge;  else bias = 0
///   code = clamp(round((w - bias) / scale), 0, n)
/// so that the edge, and a zero, come back exactly. Source: mlx `mx.quantize`
/// (mlx/backend/cpu/quantized.cpp), in f32.
void QuantizeAffineRow(std::span<const float> row, AffineFormat format, DType dtype, const AffineRowOut& out);

}  // namespace shoal
