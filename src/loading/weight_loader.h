// From a WeightRef to weights: finds the tensor behind it, checks it, packs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cpu/pool.h"
#include "formats/checkpoint.h"
#include "formats/mlx_quant.h"
#include "kernels/packed.h"
#include "loading/packed_store.h"
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
  int64_t first_row = 0;                 ///< Row 0 of the weight in it,
  int64_t row_interval = 1;              ///< and its rows from one of the weight to the next.
  /// Where it is a strided view of a tensor: element (n, k) is `data`'s n * row_stride + k * col_stride; of
  /// blocks, column n of stored row first_row + k.
  int64_t row_stride = 0;
  int64_t col_stride = 0;
  bool strided() const { return col_stride != 0; }
  bool is_vector = false;  ///< A norm or a bias: one row.
  bool absent = false;     ///< The checkpoint is a shard without it: it has a format, but no bytes.
  int64_t head_rows = 0;   ///< Rows of a head within which rows are permuted; 0: none are.

  int64_t elements() const { return rows * cols; }
  /// The row of the stored matrix that is row `row` of the weight (GgufName::permuted_heads says which
  /// permutation).
  int64_t stored_row(int64_t row) const {
    row = first_row + row * row_interval;
    if (head_rows == 0) return row;
    const int64_t in_head = row % head_rows;
    return row - in_head + 2 * (in_head % (head_rows / 2)) + in_head / (head_rows / 2);
  }
  /// Bytes of the weight in the files.
  int64_t stored_bytes() const;
};

/// Finds, packs and reads the weights of a checkpoint, as its config says they are quantized. Owns neither
/// the checkpoint nor the store.
class WeightLoader {
 public:
  /// store: where packed matrices lie and may come from; nullptr: each in memory of its own.
  static absl::StatusOr<WeightLoader> Create(const Checkpoint& checkpoint, PackedStore* store = nullptr);

  const Checkpoint& checkpoint() const { return *checkpoint_; }

  /// NotFound or InvalidArgument, with file, tensor, expected and got. What a shard lacks is found, `absent`:
  /// its bytes are NotFound when they are read.
  absl::StatusOr<StoredWeight> find(const WeightRef& ref) const;
  /// NotFound for a weight that is absent: which, and what to do.
  absl::Status check_here(const StoredWeight& weight) const;
  /// The weight of a linear; InvalidArgument where the spec has no bias but the checkpoint does.
  absl::StatusOr<StoredWeight> find(const LinearSpec& linear) const;

  /// Matrices as the kernels read them, in the order of `weights`: those that are multiplied as one piece of
  /// work (q, k and v). What the store has is taken as it is; of the others the tiles stand in a row, which
  /// is cut into one part per thread as products cut it: on a machine of several memory nodes a page lies
  /// where it will be read, as the thread that first writes it decides. Weights that are not multiplied
  /// together may be given together all the same: threads then meet once, and pages are given back in fewer
  /// calls. Source pages are read ahead, and given back as they are packed, so that little more than a slab
  /// of them is resident at a time.
  /// ResourceExhausted where memory is refused.
  absl::StatusOr<std::vector<PackedMatrix>> pack(std::span<const StoredWeight> weights,
                                                 ThreadPool& pool) const;
  /// Rows [0, weight.rows) of a weight as f32 [rows, cols]: affine weights as round(scale * code) + bias,
  /// rounded; all others exactly. DataLoss where a block holds what no weight is.
  absl::Status read_rows(const StoredWeight& weight, Range rows, float* out) const;
  /// A hash of row `row` of a weight that is here (CHECK), as it is in the files; of where its bytes are
  /// a strided view, of the first of them. Its pages are given back.
  uint64_t row_hash(const StoredWeight& weight, int64_t row) const;
  /// Gives the pages of a weight that has been read back.
  void drop(const StoredWeight& weight) const;
  /// A vector (norm or bias) as f32.
  absl::StatusOr<std::vector<float>> read_vector(const WeightRef& ref) const;

 private:
  WeightLoader(const Checkpoint& checkpoint, Quantization quantization, PackedStore* store)
      : checkpoint_(&checkpoint), quantization_(std::move(quantization)), store_(store) {}
  absl::StatusOr<PackedStore::Place> place(const StoredWeight& weight, uint32_t batch) const;
  absl::StatusOr<StoredWeight> find_strided(StoredWeight weight) const;
  absl::StatusOr<StoredWeight> find_blocks(StoredWeight weight, const TensorInfo& info,
                                           std::span<const int64_t> shape) const;
  absl::Status decode(const StoredWeight& weight, const std::vector<int64_t>& rows,
                      DecodedRows& decoded) const;
  struct Chunk;
  /// What one thread packs: of weights whose tiles to be packed stand in a row, those in `part`, in chunks
  /// well below a slab.
  static std::vector<Chunk> Cut(std::span<const StoredWeight> weights, std::span<const int64_t> tiles,
                                Range part, int64_t slab_bytes);
  /// packed: of every weight. DataLoss where a block holds what no weight is.
  absl::Status pack_chunks(std::span<const Chunk> chunks, int64_t slab_bytes,
                           std::vector<PackedMatrix>& packed) const;
  absl::Status pack_rows(const StoredWeight& weight, Range rows, PackedMatrix& packed) const;
  /// read_rows of a weight that is the transpose of part of a matrix of blocks.
  absl::Status read_transposed(const StoredWeight& weight, Range rows, float* out) const;
  /// Calls with the address and the bytes of each tensor's share of the rows of a weight, and of what lies
  /// between them.
  void for_sources(const StoredWeight& weight, Range rows,
                   absl::FunctionRef<void(const std::byte* data, int64_t bytes)> visit) const;

  const Checkpoint* checkpoint_;
  Quantization quantization_;
  PackedStore* store_;
};

}  // namespace shoal
