// Attention to a window, and to what was before it in pooled form.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/mixers/mixer_work.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// Makes one entry of every `ratio` positions, value by value: with a = softmax over positions of (gate + bias),
///   entry = rope(norm(sum of a * kv)), rotated as the first of the positions.
/// Where they overlap, kv and gate have two halves: the first counts for the entry of the next `ratio` positions, the
/// second for their own, and the softmax is over both.
struct PoolSpec {
  int64_t ratio = 0;
  int dim = 0;  ///< Of an entry.
  bool overlaps = false;
  LinearSpec kv, gate;  ///< [cols(), D]
  WeightRef bias;       ///< [ratio * cols()], as [ratio, cols()].
  NormSpec norm;        ///< [dim]

  int64_t cols() const { return overlaps ? 2 * dim : dim; }
  void show_weights(const WeightWalk& walk) const {
    walk.linear("attention", kv);
    walk.linear("attention", gate);
    walk.weight("convolution", bias);
    walk.norm(norm);
  }
};

/// Attention of all heads to one head whose values are its keys: those of the last `window` positions, and of the entries
/// that `pool` has made of positions up to the row's own. Where there is an indexer, only of the `top` entries for which
///   sum over h of weight[h] * relu(q[h] . key), over sqrt(heads * dim),
/// is largest, ties to the first; its keys are entries of a pool of its own. Queries and keys are rotated in their last
/// dimensions, and so is, backwards, what a head gives. Its output projection has a first part for each group of heads.
/// Source: DeepSeek-AI 2026, DeepSeek-V4, section 2.3; transformers `DeepseekV4Attention`.
struct PooledAttentionSpec {
  struct Indexer {
    int heads = 0;
    int dim = 0;
    int64_t top = 0;
    LinearSpec q;        ///< [heads * dim, Q]
    LinearSpec weights;  ///< [heads, D]
    PoolSpec pool;
  };
  int heads = 0;
  int head_dim = 0;
  LinearSpec q_a;      ///< [Q, D]
  NormSpec q_norm;     ///< [Q]
  LinearSpec q;        ///< [heads * head_dim, Q]
  float head_eps = 0;  ///< Of the norm of each head's query, which has no weight.
  LinearSpec kv;       ///< [head_dim, D]
  NormSpec kv_norm;    ///< [head_dim]
  RopeSpec rope;
  int64_t window = 0;
  WeightRef sinks;  ///< [heads]
  std::optional<PoolSpec> pool;
  std::optional<Indexer> indexer;
  std::vector<LinearSpec> o_a;  ///< Per group [R, heads / groups * head_dim].
  LinearSpec o_b;               ///< [D, groups * R]

  int cached_head() const { return CachedHeadDim(head_dim); }
  /// Heads beside the first, of a key and a value each, for what a position keeps for pools: a head of entries, then kv
  /// and gates.
  int extra_heads() const {
    int64_t values = pool ? cached_head() + 2 * pool->cols() - pool->dim : 0;
    if (indexer) values += 2 * indexer->pool.cols();
    const int64_t each = 2 * int64_t{cached_head()};
    return static_cast<int>((values + each - 1) / each);
  }

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return head_dim; }
  KvLayerShape cache_shape() const { return {1 + extra_heads(), cached_head()}; }
  const RopeSpec* position_rope() const { return &rope; }
  /// A row attends to no more than the window and, where an indexer picks, to its top: that is work of a row.
  MixerWork work() const {
    MixerWork work{.per_row = int64_t{2} * heads * head_dim * window};
    if (indexer) {
      work.per_position = indexer->heads * indexer->dim / indexer->pool.ratio;
      work.per_row += int64_t{2} * heads * head_dim * indexer->top;
    } else if (pool) {
      work.per_position = int64_t{2} * heads * head_dim / pool->ratio;
    }
    return work;
  }
  void show_weights(const WeightWalk& walk) const {
    walk.linear("attention", q_a);
    walk.norm(q_norm);
    walk.linear("attention", q);
    walk.linear("attention", kv);
    walk.norm(kv_norm);
    walk.weight("attention", sinks);
    if (pool) pool->show_weights(walk);
    if (indexer) {
      walk.linear("attention", indexer->q);
      walk.linear("attention", indexer->weights);
      indexer->pool.show_weights(walk);
    }
    for (const LinearSpec& group : o_a) walk.linear("attention", group);
    walk.linear("attention", o_b);
  }
};

}  // namespace shoal
