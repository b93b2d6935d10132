// Linear attention by the gated delta rule.
#pragma once

#include <cstdint>

#include "models/mixers/mixer_work.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// Gated delta rule: a layer that keeps a matrix per value head instead of the past. Queries, keys and values
/// pass a causal convolution over the sequence and silu; query head h / (value_heads / key_heads) serves
/// value head h. Per position, state = decay * state + key (beta (value - decay * state^T key))^T and the
/// output is state^T query, normed per head and multiplied by silu(z), with decay = exp(-exp(decay_log) *
/// softplus(a + step_bias)), beta = sigmoid(b), queries and keys of length 1, queries over sqrt(key_dim).
/// Source: Yang et al. 2024, arXiv:2412.06464; transformers `Qwen3_5MoeGatedDeltaNet`.
struct GatedDeltaNetSpec {
  int key_heads = 0;
  int value_heads = 0;  ///< A multiple of key_heads.
  int key_dim = 0;      ///< Of a head.
  int value_dim = 0;
  int conv_width = 0;  ///< Positions that the convolution sees, the row's own included.
  LinearSpec qkv;      ///< [channels(), D]: queries, keys, values.
  LinearSpec z;        ///< [value_heads * value_dim, D]
  LinearSpec b, a;     ///< [value_heads, D]
  WeightRef conv;      ///< [channels() * conv_width]: of each channel its taps, the oldest position first.
  WeightRef decay_log, step_bias;  ///< [value_heads]
  NormSpec norm;                   ///< [value_dim], of each value head's output.
  LinearSpec o;                    ///< [D, value_heads * value_dim]

  /// Channels of the convolution.
  int64_t channels() const { return int64_t{2} * key_heads * key_dim + int64_t{value_heads} * value_dim; }
  /// f32 values of the convolution's rows in a layer's state, padded so that the matrices begin on a cache
  /// line.
  int64_t conv_values() const { return PaddedToCacheLine((conv_width - 1) * channels()); }
  /// f32 values of the whole state, padded likewise.
  int64_t state_values() const {
    return PaddedToCacheLine(conv_values() + int64_t{value_heads} * key_dim * value_dim);
  }

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return 0; }
  KvLayerShape cache_shape() const { return {.state_values = state_values()}; }
  const RopeSpec* position_rope() const { return nullptr; }
  MixerWork work() const {
    return {.per_row = int64_t{3} * value_heads * key_dim * value_dim + conv_width * channels()};
  }
  void show_weights(const WeightWalk& walk) const {
    for (const LinearSpec* part : {&qkv, &z, &b, &a}) walk.linear("attention", *part);
    walk.weight("convolution", conv);
    walk.weight("decay", decay_log);
    walk.weight("decay", step_bias);
    walk.norm(norm);
    walk.linear("attention", o);
  }
};

}  // namespace shoal
