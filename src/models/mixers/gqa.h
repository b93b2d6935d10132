// Grouped-query attention.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "models/mixers/indexer.h"
#include "models/mixers/mixer_work.h"
#include "models/mixers/query_temperature.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// Grouped-query attention: query head h reads key-value head h / (heads / kv_heads); scores are scaled by
/// 1 / sqrt(head_dim). Source: Ainslie et al. 2023, arXiv:2305.13245.
struct GqaSpec {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::optional<int> value_dim;  ///< Of a head's values and output, where it is another than head_dim.
  LinearSpec q, k, v, o;
  /// Before rope: over each head where the weight has head_dim values, else over all heads together.
  std::optional<NormSpec> q_norm, k_norm;
  std::vector<NormSpec> q_head_norms, k_head_norms;  ///< Instead, one for each head; empty: none.
  bool norm_behind_rope = false;                     ///< Queries and keys are normed after they are rotated.
  std::optional<float> v_norm_eps;                   ///< Values are normed over each head, without a weight.
  float value_scale = 1;                             ///< Factor on the values.
  /// Keys and values (normed and rotated) that several layers have in common: they lie in the rows themselves
  /// (AltUpSpec), keys at `column` and values behind them. Each layer caches its own, so that a plan may part layers
  /// wherever it likes.
  struct SharedKv {
    int64_t column = 0;
    bool taken = false;  ///< From the rows: this layer has no k and v. Otherwise it puts its own there.
  };
  std::optional<SharedKv> shared_kv;
  bool takes_kv() const { return shared_kv && shared_kv->taken; }
  /// There is no v projection: the values are the output of k before its norm and rope.
  bool values_from_keys = false;
  RopeSpec rope;
  QueryTemperature temperature;    ///< Of queries, after rope.
  std::optional<int64_t> window;   ///< Positions that a row sees, its own included; absent: all before it.
  std::optional<int64_t> chunk;    ///< A row sees, of the positions before it, those with its own p / chunk.
  std::optional<double> scale;     ///< Of scores, instead of 1 / sqrt(head_dim).
  float score_softcap = 0;         ///< c > 0: scores are c tanh(score / c).
  std::optional<WeightRef> sinks;  ///< [heads]: an extra score per head that has no value.
  /// q returns, per head, a query followed by a gate of the same width (2 * heads * head_dim rows). The
  /// head's output is multiplied by the sigmoid of its gate.
  bool output_gate = false;
  /// Instead, a projection of its own: a gate for each value of the output [heads * value_dim, D], or one for each head
  /// [heads, D].
  std::optional<LinearSpec> gate;
  std::optional<BlockPicks> picks;  ///< Absent: a row attends to all positions that it sees.

  int output_dim() const { return value_dim.value_or(head_dim); }

  /// How many positions a row may see, its own among them; INT64_MAX: all.
  int64_t visible_positions() const {
    constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
    return std::min(window.value_or(kAll), chunk.value_or(kAll));
  }

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return std::max(head_dim, output_dim()); }
  KvLayerShape cache_shape() const {
    return {.kv_heads = kv_heads,
            .head_dim = CachedHeadDim(static_cast<int>(cached_dim())),
            .index_dim = picks ? picks->indexer.dim : 0};
  }
  const RopeSpec* position_rope() const { return rope.dims > 0 ? &rope : nullptr; }
  MixerWork work() const {
    return {.per_position = int64_t{heads} * (head_dim + output_dim()),
            .attended_max = picks ? picks->positions() : 0,
            .per_scanned = picks ? picks->indexer.per_position() : 0};
  }
  void show_weights(const WeightWalk& walk) const {
    walk.linear("attention", q);
    if (!takes_kv()) walk.linear("attention", k);
    if (!takes_kv() && !values_from_keys) walk.linear("attention", v);
    walk.linear("attention", o);
    if (gate) walk.linear("attention", *gate);
    walk.norm(q_norm);
    walk.norm(k_norm);
    for (const NormSpec& norm : q_head_norms) walk.norm(norm);
    for (const NormSpec& norm : k_head_norms) walk.norm(norm);
    if (sinks) walk.weight("attention", *sinks);
    if (picks) picks->indexer.show_weights(walk);
  }
};

}  // namespace shoal
