// State space layers of Mamba 2.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "models/mixers/mixer_work.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// A layer that keeps a matrix per head instead of the past. Values x, keys B and queries C pass a causal convolution over
/// the sequence and silu; the heads of a group share B and C. Per position and head,
///   state = decay * state + B (step x)^T,  y = state^T C + skip * x,
/// with step = softplus(step + step_bias) within [step_min, step_max] and decay = exp(-exp(decay_log) * step). All heads'
/// y is multiplied by silu(gate) and then normed over each group's part, or the other way round, or not normed.
/// Source: Dao, Gu 2024, arXiv:2405.21060; transformers `Mamba2Mixer`, `FalconH1Mixer`.
struct Mamba2Spec {
  int heads = 0;
  int head_dim = 0;
  int groups = 0;      ///< Divides heads.
  int state_dim = 0;   ///< Of a row of B and C.
  int conv_width = 0;  ///< Positions that the convolution sees, the row's own included.
  LinearSpec gate;     ///< [inner(), D]
  LinearSpec xbc;      ///< [channels(), D]: x, B of all groups, C of all groups.
  LinearSpec step;     ///< [heads, D]
  /// What the outputs of these projections are multiplied by.
  struct Factors {
    float gate = 1, x = 1, b = 1, c = 1, step = 1;
  };
  Factors factors;
  WeightRef conv;  ///< [channels() * conv_width]: of each channel its taps, the oldest position first.
  std::optional<WeightRef> conv_bias;    ///< [channels()]
  WeightRef decay_log, step_bias, skip;  ///< [heads]
  double step_min = 0;
  double step_max = std::numeric_limits<double>::max();
  std::optional<NormSpec> norm;   ///< [inner()]
  bool norm_before_gate = false;  ///< y is normed first, then multiplied by silu(gate).
  LinearSpec o;                   ///< [D, inner()]

  int64_t inner() const { return int64_t{heads} * head_dim; }
  int64_t channels() const { return inner() + int64_t{2} * groups * state_dim; }
  /// f32 values of the convolution's rows in a layer's state, padded so that the matrices begin on a cache line.
  int64_t conv_values() const { return PaddedToCacheLine((conv_width - 1) * channels()); }
  int64_t state_values() const { return PaddedToCacheLine(conv_values() + inner() * state_dim); }

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return 0; }
  KvLayerShape cache_shape() const { return {.state_values = state_values()}; }
  const RopeSpec* position_rope() const { return nullptr; }
  MixerWork work() const { return {.per_row = 3 * inner() * state_dim + conv_width * channels()}; }
  void show_weights(const WeightWalk& walk) const {
    for (const LinearSpec* part : {&gate, &xbc, &step}) walk.linear("attention", *part);
    walk.weight("convolution", conv);
    if (conv_bias) walk.weight("convolution", *conv_bias);
    for (const WeightRef* part : {&decay_log, &step_bias, &skip}) walk.weight("decay", *part);
    walk.norm(norm);
    walk.linear("attention", o);
  }
};

}  // namespace shoal
