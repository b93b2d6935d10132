// Finds the tensor behind a WeightRef and checks it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/checkpoint.h"
#include "formats/mlx_quant.h"
#include "kernels/packed.h"
#include "loading/packed_unit.h"
#include "models/spec.h"

namespace shoal {

/// A weight found in a checkpoint, of the shape that was expected. Valid while the checkpoint lives.
struct StoredWeight {
  const WeightSource* source = nullptr;  ///< Which of the ref's places it is.
  PackedFormat format;                   ///< What it packs into.
  int64_t rows = 0;                      ///< N (1 for a vector)
  int64_t cols = 0;                      ///< K
  AffineView affine;                     ///< Where quantized: the stored matrix.
  const std::byte* data = nullptr;       ///< Where not: the stored matrix, contiguous rows.
  BlockView blocks;                      ///< Where it is stored in blocks: the stored matrix.
  int64_t first_row = 0;                 ///< The stored row that is row 0 of the weight.
  int64_t row_interval = 1;              ///< Stored rows from one run of rows to the next.
  int64_t row_run = 1;                   ///< Rows of a run, which are stored one behind the other.
  /// Where it is a strided view of a tensor: element (n, k) is `data`'s n * row_stride + k * col_stride; of
  /// blocks, column n of stored row first_row + k.
  int64_t row_stride = 0;
  int64_t col_stride = 0;
  bool strided() const { return col_stride != 0; }
  /// The columns are rows of a matrix of codes, which are read as floats.
  bool transposed_codes() const { return strided() && (blocks.type != BlockType::kNone || affine.rows > 0); }
  /// Codes are read as floats: transposed, or with columns in another order than their groups'.
  bool codes_as_floats() const {
    return transposed_codes() ||
           (blocks.type != BlockType::kNone && !format.affine() && LawOf(blocks.type).bits > 0);
  }
  bool is_vector = false;  ///< A norm or a bias: one row.
  bool absent = false;     ///< The checkpoint is a shard without it: it has a format, but no bytes.
  int64_t head_rows = 0;   ///< Rows of a head within which rows are permuted; 0: none are.
  TiledHeads tiled;        ///< The order of the rows, columns or elements of value heads.
  PackedUnit unit;         ///< What of the model it is kept with when it is packed; kNone where nobody said.

  int64_t elements() const { return rows * cols; }
  /// stored_row() without a permutation.
  int64_t row_in_order(int64_t row) const { return first_row + row / row_run * row_interval + row % row_run; }
  /// The row of the stored matrix that is row `row` of the weight (GgufName says which permutations there are).
  int64_t stored_row(int64_t row) const {
    row = row_in_order(row);
    if (tiled.of_rows()) return tiled.stored(row);
    if (head_rows == 0) return row;
    const int64_t in_head = row % head_rows;
    return row - in_head + 2 * (in_head % (head_rows / 2)) + in_head / (head_rows / 2);
  }
  /// The column of the stored matrix that is column `col` of the weight; of a vector the element.
  int64_t stored_col(int64_t col) const {
    if (is_vector) return strided() ? tiled.stored(col) : stored_row(col);
    return tiled.of_columns() ? tiled.stored(col) : col;
  }
  /// How many rows from `row` on are stored one behind the other.
  int64_t run_from(int64_t row) const {
    if (head_rows > 0) return 1;
    const int64_t run = row_interval == 1 ? rows - row : row_run - row % row_run;
    return tiled.of_rows() ? std::min(run, tiled.run_from(row_in_order(row))) : run;
  }
  /// Bytes of the weight in the files.
  int64_t stored_bytes() const;
};

/// Finds weights in a checkpoint, as its config says they are quantized. Each weight costs up to ten look-ups
/// of tensors by name: ResolvedWeights makes them once for all weights of a spec. The checkpoint must outlive
/// it.
class WeightFinder {
 public:
  /// InvalidArgument for a config whose quantization is not understood.
  static absl::StatusOr<WeightFinder> Create(const Checkpoint& checkpoint);

  const Checkpoint& checkpoint() const { return *checkpoint_; }

  /// NotFound or InvalidArgument, with file, tensor, expected and got. What a shard lacks is found, `absent`.
  absl::StatusOr<StoredWeight> find(const WeightRef& ref) const;

 private:
  WeightFinder(const Checkpoint& checkpoint, Quantization quantization)
      : checkpoint_(&checkpoint), quantization_(std::move(quantization)) {}
  absl::StatusOr<StoredWeight> find_strided(StoredWeight weight) const;
  absl::StatusOr<StoredWeight> find_blocks(StoredWeight weight, const TensorInfo& info,
                                           std::span<const int64_t> shape) const;

  const Checkpoint* checkpoint_;
  Quantization quantization_;
};

/// NotFound for a weight that is absent: which, and what to do.
absl::Status CheckHere(const Checkpoint& checkpoint, const StoredWeight& weight);

}  // namespace shoal
