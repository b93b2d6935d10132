// Gated short convolutions.
#pragma once

#include <cstdint>
#include <optional>

#include "models/mixers/mixer_work.h"
#include "models/rope.h"
#include "models/weights.h"
#include "numeric/cache_shape.h"

namespace shoal {

/// A short causal convolution between two gates: with (b, c, x) = in(row), the output is
/// o(c * conv(b * x)), where conv sees the last conv_width positions of each channel. The state is the last
/// conv_width - 1 rows of b * x. Source: transformers `Lfm2ShortConv`.
struct ShortConvSpec {
  int64_t channels = 0;
  int conv_width = 0;             ///< Positions that the convolution sees, the row's own included.
  LinearSpec in;                  ///< [3 * channels, D]: b, c, x.
  WeightRef conv;                 ///< [channels * conv_width]: of each channel its taps, the oldest first.
  std::optional<WeightRef> bias;  ///< [channels], of the convolution.
  LinearSpec o;                   ///< [D, channels]

  /// f32 values of the state.
  int64_t state_values() const { return PaddedToCacheLine((conv_width - 1) * channels); }

  // What every mixer says of itself (mixers.h).
  int64_t cached_dim() const { return 0; }
  KvLayerShape cache_shape() const { return {.state_values = state_values()}; }
  const RopeSpec* position_rope() const { return nullptr; }
  MixerWork work() const { return {.per_row = conv_width * channels}; }
  void show_weights(const WeightWalk& walk) const {
    walk.linear("attention", in);
    walk.weight("convolution", conv);
    if (bias) walk.weight("convolution", *bias);
    walk.linear("attention", o);
  }
};

}  // namespace shoal
