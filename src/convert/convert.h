// Writes a model that shoal reads as a folder that mlx-lm and shoal read: bf16, or MLX affine groups. What
// `shoal convert` does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "convert/shards.h"
#include "formats/checkpoint.h"
#include "formats/mlx_quant.h"
#include "models/spec.h"

namespace shoal {

/// What matrices become.
struct ConvertFormat {
  enum class Kind : uint8_t {
    kKeep,  ///< Unchanged: of a GGUF the codes and scales of its blocks, in affine groups; else for shards only.
    kFloat,   ///< bf16.
    kAffine,  ///< `affine`; routers 8 bits, as mlx-lm has them.
    kMixed,   ///< 4 bits in groups of 64; embedding and head 6, routers 8; and 6 or 8 where 4 bits lose more
              ///< than usual.
  };
  Kind kind = Kind::kAffine;
  AffineFormat affine{4, 64};
};

/// "bf16", "affine-4-g64" (2, 3, 4, 5, 6 or 8 bits, groups of 32, 64 or 128), "mixed", "keep".
/// InvalidArgument lists them.
absl::StatusOr<ConvertFormat> ParseConvertFormat(std::string_view text);

struct ConvertOptions {
  std::string
      out;  ///< The folder, made if need be. It must not be another model. Not used where there are shards.
  std::vector<ConvertShard> shards;  ///< Instead of one whole folder.
  ConvertFormat format;
  int threads = 1;
  int64_t file_bytes_max = int64_t{4} << 30;
  std::function<void(int64_t done, int64_t total)> progress;  ///< Bytes written; may be empty.
};

/// What was written.
struct ConvertReport {
  std::vector<FolderReport> folders;        ///< Of each shard, or of the one folder.
  int64_t parameters = 0;                   ///< Of all matrices; 0 where they were kept.
  std::map<std::string, int64_t> matrices;  ///< By format ("4-bit groups of 64"): how many.

  FolderReport sum() const;
};

/// What is kept gives the same logits, bit for bit, as the source: numbers that mlx-lm's layout has in another form keep the
/// GGUF's, so that mlx-lm may not read them. Unimplemented where a stack has matrices of several formats.
///
/// Streams tensor by tensor: memory is some MiB, and the scales of one tensor. A file of weights appears
/// under its name when it is whole, and config.json last: a folder with config.json is a whole model. Called
/// again after it was cut off, it keeps the files that are whole. Experts are stacked as mlx-lm has them;
/// fused tensors stay fused, unless mlx-lm keeps their parts in stacks; what is taken apart while it is read
/// and has no stack stays floats. FailedPrecondition where `out` is the source or holds another model, or
/// where the source is a shard; InvalidArgument for a weight that is NaN or infinite, ResourceExhausted where
/// the disk is full, and the errors of reading.
absl::StatusOr<ConvertReport> ConvertModel(const ResolvedWeights& weights, const ConvertOptions& options);

}  // namespace shoal
