// Linear attention by the gated delta rule.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

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
/// In Kimi Delta Attention each key channel has a decay of its own, and sigmoid(z) takes the place of silu(z).
/// Source: Kimi Team 2025, arXiv:2510.26692. With a bound on the decays' logarithms these are
/// decay_bound * sigmoid(exp(decay_log) * (a + step_bias)). Source: transformers `BailingHybridForgetGate`.
struct GatedDeltaNetSpec {
  int key_heads = 0;
  int value_heads = 0;  ///< A multiple of key_heads.
  int key_dim = 0;      ///< Of a head.
  int value_dim = 0;
  int conv_width = 0;  ///< Positions that the convolution sees, the row's own included.
  LinearSpec q, k;     ///< [key_heads * key_dim, D]
  LinearSpec v, z;     ///< [value_heads * value_dim, D]
  LinearSpec b;        ///< [value_heads, D]
  LinearSpec a;        ///< [decays(), D]
  /// Make what z and a read instead of the input, where these are of low rank.
  std::optional<LinearSpec> z_in, a_in;
  bool decays_by_channel = false;                    ///< Otherwise a head has one.
  std::optional<double> decay_bound = std::nullopt;  ///< < 0: of a decay's logarithm.
  bool sigmoid_gate = false;                         ///< Otherwise silu.
  /// [channels() * conv_width], in one or several parts: of each channel (queries, keys, values) its taps, the oldest
  /// position first.
  std::vector<WeightRef> conv;
  WeightRef decay_log;  ///< [value_heads]
  WeightRef step_bias;  ///< [decays()]
  NormSpec norm;        ///< [value_dim], of each value head's output.
  LinearSpec o;         ///< [D, value_heads * value_dim]

  /// Decays of a row.
  int64_t decays() const { return int64_t{value_heads} * (decays_by_channel ? key_dim : 1); }
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
    for (const LinearSpec* part : {&q, &k, &v, &z, &b, &a}) walk.linear("attention", *part);
    if (z_in) walk.linear("attention", *z_in);
    if (a_in) walk.linear("attention", *a_in);
    for (const WeightRef& part : conv) walk.weight("convolution", part);
    walk.weight("decay", decay_log);
    walk.weight("decay", step_bias);
    walk.norm(norm);
    walk.linear("attention", o);
  }
};

}  // namespace shoal
