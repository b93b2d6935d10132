// Latent attention.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/mixers/indexer.h"
#include "models/mixers/mixer_work.h"
#include "models/mixers/query_temperature.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// Latent attention: keys and values are made from one latent vector per position, which is what the cache
/// holds, beside a key that is rotated by the position and is shared by all heads. There is one formulation
/// for every number of rows: the heads' key matrices are applied to the queries and their value matrices to
/// what attention gives, so that it is attention of all heads over one kv head of latents.
/// Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
struct MlaSpec {
  int heads = 0;
  int nope_dim = 0;   ///< Dimensions of a query that are compared with the latent.
  int rope_dim = 0;   ///< Rotated dimensions, which follow them.
  int value_dim = 0;  ///< Of a head's output.
  int64_t latent = 0;
  std::optional<LinearSpec> q_a;   ///< [Q, D]: makes the latent of queries, where they have one.
  std::optional<NormSpec> q_norm;  ///< Of that latent.
  LinearSpec q;                    ///< [heads * (nope_dim + rope_dim), Q or D]
  LinearSpec kv_a;                 ///< [latent + rope_dim, D]: latent, then the rotated key.
  NormSpec kv_norm;                ///< Of the latent.
  std::vector<LinearSpec> keys;    ///< Per head [latent, nope_dim]
  std::vector<LinearSpec> values;  ///< Per head [value_dim, latent]
  std::optional<LinearSpec> gate;  ///< [heads, D]: a head's output is multiplied by the sigmoid of its row.
  LinearSpec o;                    ///< [D, heads * value_dim]
  RopeSpec rope;
  QueryTemperature temperature;
  double scale = 0;               ///< Of scores.
  std::optional<TopPicks> picks;  ///< Absent: a row attends to all positions before it.

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return latent + rope_dim; }
  KvLayerShape cache_shape() const {
    return {.kv_heads = 1,
            .head_dim = CachedHeadDim(static_cast<int>(cached_dim())),
            .index_dim = picks && picks->indexer ? picks->indexer->dim : 0};
  }
  const RopeSpec* position_rope() const { return rope.dims > 0 ? &rope : nullptr; }
  MixerWork work() const {
    return {.per_position = heads * (2 * latent + rope_dim),
            .attended_max = picks ? picks->count : 0,
            .per_scanned = picks && picks->indexer ? picks->indexer->per_position() : 0};
  }
  void show_weights(const WeightWalk& walk) const {
    if (q_a) walk.linear("attention", *q_a);
    walk.norm(q_norm);
    walk.linear("attention", q);
    walk.linear("attention", kv_a);
    walk.norm(kv_norm);
    for (const LinearSpec& head : keys) walk.linear("attention", head);
    for (const LinearSpec& head : values) walk.linear("attention", head);
    if (gate) walk.linear("attention", *gate);
    walk.linear("attention", o);
    if (picks && picks->indexer) picks->indexer->show_weights(walk);
  }
};

}  // namespace shoal
