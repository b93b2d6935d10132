// What picks the positions that attention looks at.
#pragma once

#include <cstdint>
#include <optional>

#include "models/weights.h"
#include "numeric/operation_kinds.h"

namespace shoal {

/// A small attention without values that compares a row with the positions before it, of which it keeps a key beside the
/// attention's. Queries and keys are rotated in their leading dimensions, as many as the attention's and by the same
/// angles. A position's score is the sum over heads of weight * max(query . key, 0), weights over
/// sqrt(heads * dim), or without weights query . key for each head apart.
/// Source: DeepSeek-AI 2025, DeepSeek-V3.2-Exp, section 1 ("lightning indexer").
struct IndexerSpec {
  int heads = 0;
  int dim = 0;                        ///< Of a query head, and of the key.
  LinearSpec q;                       ///< [heads * dim, Q]
  LinearSpec k;                       ///< [dim, D]
  std::optional<NormSpec> q_norm;     ///< [dim], of each head.
  NormSpec k_norm;                    ///< [dim]
  std::optional<LinearSpec> weights;  ///< [heads, D]
  RopePairing pairing = RopePairing::kHalfSplit;

  /// Multiplications of one row with one position.
  int64_t per_position() const { return int64_t{heads} * dim; }
  void show_weights(const WeightWalk& walk) const {
    walk.linear("attention", q);
    walk.linear("attention", k);
    walk.norm(q_norm);
    walk.norm(k_norm);
    if (weights) walk.linear("attention", *weights);
  }
};

/// A row attends to the `count` positions of the highest scores, ties to the lowest, where more are before it.
struct TopPicks {
  int64_t count = 0;
  std::optional<IndexerSpec> indexer;  ///< Absent: the row brings what a layer before this one picked.
  /// The picked positions lie in the rows themselves (ModelSpec::carried_picks), for layers behind this one. So each layer
  /// may be on a node of its own.
  bool carried = false;
};

/// Of every kv head, a row attends to `count` blocks of `size` positions: the last `local` up to its own, and of the others
/// those in which the highest score is highest, ties to the lowest. The indexer has a head for each kv head.
struct BlockPicks {
  int64_t size = 0;
  int64_t count = 0;
  int64_t local = 0;
  IndexerSpec indexer;

  /// Positions that a row attends to at most.
  int64_t positions() const { return size * count; }
};

}  // namespace shoal
