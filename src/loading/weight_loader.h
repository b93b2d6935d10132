// Packs weights of a checkpoint into the matrices that kernels read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cpu/pool.h"
#include "formats/checkpoint.h"
#include "kernels/packed.h"
#include "loading/packed_store.h"
#include "loading/resolved_weights.h"
#include "loading/stored_weight.h"
#include "models/spec.h"

namespace shoal {

/// Finds, packs and reads the weights of a checkpoint, as its config says they are quantized. Owns neither
/// the checkpoint nor the store.
class WeightLoader {
 public:
  /// Looks each weight up when it is asked for.
  static absl::StatusOr<WeightLoader> Create(const Checkpoint& checkpoint);
  /// Takes the weights of `resolved`'s spec as they were found; others are looked up. `resolved` must outlive
  /// it. store: where packed matrices lie and may come from; nullptr: each in memory of its own.
  explicit WeightLoader(const ResolvedWeights& resolved, PackedStore* store = nullptr)
      : checkpoint_(&resolved.checkpoint()),
        resolved_(&resolved),
        finder_(resolved.finder()),
        store_(store) {}

  const Checkpoint& checkpoint() const { return *checkpoint_; }

  /// NotFound or InvalidArgument, with file, tensor, expected and got. What a shard lacks is found, `absent`:
  /// its bytes are NotFound when they are read.
  absl::StatusOr<StoredWeight> find(const WeightRef& ref) const;
  /// The weight of a linear; InvalidArgument where the spec has no bias but the checkpoint does.
  absl::StatusOr<StoredWeight> find(const LinearSpec& linear) const;

  /// Matrices as the kernels read them, in the order of `weights`: those that are multiplied as one piece of
  /// work (q, k and v). What the store has is taken as it is; what a file has is read, and the rest packed.
  /// The tiles, laid end to end, are cut into one part per thread as products cut them: on a machine of
  /// several memory nodes a page lies where it will be read, as the thread that first writes it decides.
  /// Weights that are not multiplied together may be given together all the same: threads then meet once, and
  /// pages are given back in fewer calls. Source pages are read ahead, and given back as they are packed, so
  /// that little more than a slab of them is resident at a time. ResourceExhausted where memory is refused.
  absl::StatusOr<std::vector<PackedMatrix>> pack(std::span<const StoredWeight> weights,
                                                 ThreadPool& pool) const;
  /// Packs a weight into a matrix of zeros of its format and shape, on the calling thread. From any thread. DataLoss as
  /// read_rows().
  absl::Status pack_into(const StoredWeight& weight, PackedMatrix& packed) const;
  /// What a packed weight is called in the files of the cache.
  static std::string PackedName(const StoredWeight& weight);
  /// Rows [0, weight.rows) of a weight as f32 [rows, cols]: affine weights as round(scale * code) + bias,
  /// rounded; all others exactly. DataLoss where a block holds what no weight is.
  absl::Status read_rows(const StoredWeight& weight, Range rows, float* out) const;
  /// Row `row` of a weight that is stored in blocks, decoded: its codes and scales are those that it is packed with. DataLoss
  /// as read_rows().
  absl::Status read_block_row(const StoredWeight& weight, int64_t row, DecodedRows& decoded) const;
  /// A hash of row `row` of a weight that is here (CHECK), as it is in the files; of where its bytes are
  /// a strided view, of the first of them. Its pages are given back.
  uint64_t row_hash(const StoredWeight& weight, int64_t row) const;
  /// Gives the pages of a weight that has been read back.
  void drop(const StoredWeight& weight) const;
  /// A vector (norm or bias) as f32.
  absl::StatusOr<std::vector<float>> read_vector(const WeightRef& ref) const;
  /// e to the values of a vector, as f32; as it is stored where -e^w is.
  absl::StatusOr<std::vector<float>> read_exp(const WeightRef& ref) const;

 private:
  explicit WeightLoader(std::shared_ptr<const WeightFinder> finder)
      : checkpoint_(&finder->checkpoint()), finder_(std::move(finder)) {}
  absl::StatusOr<PackedStore::Place> place(const StoredWeight& weight) const;
  /// Reads or packs what the places lack, each thread its part.
  absl::Status fill(std::span<const StoredWeight> weights, std::span<PackedStore::Place> places,
                    ThreadPool& pool) const;
  absl::Status decode(const StoredWeight& weight, const std::vector<int64_t>& rows,
                      DecodedRows& decoded) const;
  struct Chunk;
  /// Appends what a thread packs of a weight, its `tiles`, in chunks well below a slab.
  static void Cut(const StoredWeight& weight, size_t index, Range tiles, int64_t slab_bytes,
                  std::vector<Chunk>& chunks);
  /// places: of every weight. DataLoss where a block holds what no weight is.
  absl::Status pack_chunks(std::span<const Chunk> chunks, int64_t slab_bytes,
                           std::span<PackedStore::Place> places) const;
  absl::Status pack_rows(const StoredWeight& weight, Range rows, PackedMatrix& packed) const;
  /// read_rows of a weight that is the transpose of part of a matrix of blocks.
  absl::Status read_transposed(const StoredWeight& weight, Range rows, float* out) const;
  /// Calls with the address and the bytes of each tensor's share of the rows of a weight, and of what lies
  /// between them.
  void for_sources(const StoredWeight& weight, Range rows,
                   absl::FunctionRef<void(const std::byte* data, int64_t bytes)> visit) const;

  const Checkpoint* checkpoint_;
  const ResolvedWeights* resolved_ = nullptr;
  std::shared_ptr<const WeightFinder> finder_;
  PackedStore* store_ = nullptr;
};

}  // namespace shoal
