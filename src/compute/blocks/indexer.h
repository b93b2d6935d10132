// What picks the positions that attention looks at (IndexerSpec), over the paged cache.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/mixers/indexer.h"

namespace shoal {

/// Scores depend on the row and the position alone: each is computed by one kernel in one order, so that what is picked is
/// the same for any chunks, threads, neighbours and nodes.
class Indexer {
 public:
  /// Loaded by the attention, each together with what reads the same rows.
  struct Linears {
    Linear q, k;
    std::optional<Linear> weights;
  };
  Indexer() = default;
  /// rotary: rotated dimensions of queries and keys.
  static absl::StatusOr<Indexer> Load(const WeightLoader& loader, const IndexerSpec& spec, int rotary,
                                      Linears linears);

  int64_t bytes() const;
  const Linear& q() const { return linears_.q; }
  const Linear& k() const { return linears_.k; }
  const Linear* weights() const { return linears_.weights ? &*linears_.weights : nullptr; }

  /// Norms, rotates and caches the rows' keys, k() of the layer's input [T, dim].
  void append(const ComputeContext& context, MatView<float> keys, const MixerStep& step) const;

  /// What the projections give of a step's rows.
  struct Queries {
    MatView<float> q;        ///< [T, heads * dim]
    MatView<float> weights;  ///< [T, heads], or no data.
  };
  /// Norms, rotates and scales them.
  void prepare(const ComputeContext& context, const Queries& queries, const RopeRows& rope) const;

  /// Told the scores of rows[i], [1 or heads, its positions up to its own], which it may overwrite. Returns whether all are
  /// numbers.
  using Choose = absl::FunctionRef<bool(int64_t i, MatView<float> scores)>;
  /// Calls `choose` once for each of the step's rows `rows`, on any thread. OutOfRange where it returns false.
  absl::Status for_scores(const ComputeContext& context, const Queries& prepared, const MixerStep& step,
                          std::span<const int64_t> rows, Choose choose) const;

 private:
  struct ScoredRow {
    int64_t t = 0;
    int64_t first_chunk = 0;  // Of its positions, in the line of all rows' chunks.
    MatView<float> scores;
  };
  KvLayerView keys_of(const MixerStep& step) const;
  void rotate(const ComputeContext& context, MatView<float> x, int heads, const RopeRows& rope,
              Range rows) const;
  int64_t score_rows() const { return linears_.weights ? 1 : heads_; }
  std::span<const ScoredRow> place_scores(Arena& arena, const MixerStep& step,
                                          std::span<const int64_t> rows) const;
  void score(const ComputeContext& context, const Queries& prepared, const MixerStep& step,
             std::span<const ScoredRow> rows) const;

  int heads_ = 0;
  int dim_ = 0;
  int rotary_ = 0;
  RopePairing pairing_ = RopePairing::kHalfSplit;
  Linears linears_;
  std::optional<Norm> q_norm_;
  Norm k_norm_;
};

}  // namespace shoal
