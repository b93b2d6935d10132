// State space layers of Mamba 1.
#pragma once

#include <cstdint>
#include <optional>

#include "models/mixers/mixer_work.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// A layer that keeps state_dim values per channel instead of the past. Values x pass a causal convolution over the
/// sequence and silu; of the result u are made the row's B and C, which all channels share, and a step of low rank, each
/// normed. Per position and channel,
///   state = exp(-exp(decay_log) * step) * state + B (step u),  y = C . state + skip * u,
/// with step = softplus(steps(low)), where B, C and decay_log have a value for each of the state's. y is multiplied by
/// silu(gate).
/// Source: Gu, Dao 2023, arXiv:2312.00752; with norms: Lieber et al. 2024, arXiv:2403.19887; transformers
/// `JambaMambaMixer`.
struct Mamba1Spec {
  int64_t channels = 0;
  int state_dim = 0;
  int step_rank = 0;
  int conv_width = 0;  ///< Positions that the convolution sees, the row's own included.
  LinearSpec x, gate;  ///< [channels, D]
  WeightRef conv;      ///< [channels * conv_width]: of each channel its taps, the oldest first.
  std::optional<WeightRef> conv_bias;        ///< [channels]
  LinearSpec inputs;                         ///< [step_rank + 2 * state_dim, channels]: low, B, C.
  NormSpec step_norm, key_norm, query_norm;  ///< Of low, B and C.
  LinearSpec steps;                          ///< [channels, step_rank]
  WeightRef decay_log;                       ///< [channels * state_dim]
  WeightRef skip;                            ///< [channels]
  LinearSpec o;                              ///< [D, channels]

  /// f32 values of the convolution's rows in a layer's state, padded so that the values begin on a cache line.
  int64_t conv_values() const { return PaddedToCacheLine((conv_width - 1) * channels); }
  int64_t state_values() const { return PaddedToCacheLine(conv_values() + channels * state_dim); }

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return 0; }
  KvLayerShape cache_shape() const { return {.state_values = state_values()}; }
  const RopeSpec* position_rope() const { return nullptr; }
  /// Of each value of a state: its exponent, its decay, what it takes in, what it gives, and the multiply-adds of an
  /// exponential (kernels/lane_math.inc).
  static constexpr int64_t kMultipliesPerValue = 4 + 11;
  MixerWork work() const {
    return {.per_row = kMultipliesPerValue * channels * state_dim + conv_width * channels};
  }
  void show_weights(const WeightWalk& walk) const {
    for (const LinearSpec* part : {&x, &gate, &inputs, &steps}) walk.linear("attention", *part);
    walk.weight("convolution", conv);
    if (conv_bias) walk.weight("convolution", *conv_bias);
    for (const WeightRef* part : {&decay_log, &skip}) walk.weight("decay", *part);
    for (const NormSpec* norm : {&step_norm, &key_norm, &query_norm}) walk.norm(*norm);
    walk.linear("attention", o);
  }
};

}  // namespace shoal
