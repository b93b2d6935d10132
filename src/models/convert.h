// Writes a model that shoal reads as a folder that mlx-lm and shoal read: bf16, or MLX affine groups. What
// `shoal convert` does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/spec.h"
#include "weights/checkpoint.h"
#include "weights/mlx_quant.h"

namespace shoal {

/// What matrices become.
struct ConvertFormat {
  enum class Kind : uint8_t {
    kFloat,   ///< bf16.
    kAffine,  ///< `affine`; routers 8 bits, as mlx-lm has them.
    kMixed,   ///< 4 bits in groups of 64; embedding and head 6, routers 8; and 6 or 8 where 4 bits lose more
              ///< than usual.
  };
  Kind kind = Kind::kAffine;
  AffineFormat affine{4, 64};
};

/// "bf16", "affine-4-g64" (2, 3, 4, 5, 6 or 8 bits, groups of 32, 64 or 128), "mixed". InvalidArgument lists
/// them.
absl::StatusOr<ConvertFormat> ParseConvertFormat(std::string_view text);

struct ConvertOptions {
  std::string out;  ///< The folder, made if need be. It must not be another model.
  ConvertFormat format;
  int threads = 1;
  int64_t shard_bytes = int64_t{4} << 30;
  std::function<void(int64_t done, int64_t total)> progress;  ///< Bytes written; may be empty.
};

/// What was written.
struct ConvertReport {
  int64_t bytes = 0;                        ///< Of all tensors.
  int64_t parameters = 0;                   ///< Of all matrices.
  int64_t shards = 0;                       ///< Files of weights ...
  int64_t shards_kept = 0;                  ///< ... and how many of them an earlier call had finished.
  std::map<std::string, int64_t> matrices;  ///< By format ("4-bit groups of 64"): how many.
};

/// Streams tensor by tensor: memory is some MiB, and the scales of one tensor. A file of weights appears
/// under its name when it is whole, and config.json last: a folder with config.json is a whole model. Called
/// again after it was cut off, it keeps the files that are whole. Experts are stacked as mlx-lm has them;
/// fused tensors stay fused. FailedPrecondition where `out` is the source or holds another model,
/// InvalidArgument for a weight that is no number, ResourceExhausted where the disk is full, and the errors
/// of reading.
absl::StatusOr<ConvertReport> ConvertModel(const Checkpoint& checkpoint, const ModelSpec& spec,
                                           const ConvertOptions& options);

}  // namespace shoal
