// GatedDeltaNet layers (GatedDeltaNetSpec) over the states of the sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/norm_rope.h"
#include "kv/kv_cache.h"
#include "models/spec.h"

namespace shoal {

/// Consecutive rows of one sequence, from one state to the next. A sequence may have several spans in a step,
/// in ascending order: where it is cut no bit changes, so states can be kept between them.
struct StateSpan {
  int64_t row_begin = 0;
  int64_t rows = 0;
  SlotId from;  ///< Slot of the state before the rows; kNoState: nothing came before, all is zero.
  SlotId to;    ///< Slot of the state behind them; not `from`.
};

/// A state slot of a layer holds the last conv_width - 1 rows that the convolution saw, [conv_width - 1,
/// channels], then per value head its matrix [key_dim, value_dim], all f32.
class GatedDeltaNet {
 public:
  GatedDeltaNet() = default;
  static absl::StatusOr<GatedDeltaNet> Load(const WeightLoader& loader, const GatedDeltaNetSpec& spec,
                                            ThreadPool& pool);

  int64_t bytes() const;
  /// As Attention's.
  int input_group(ActivationMode mode) const { return qkv_.activation_group(mode); }
  KvLayerShape kv_shape() const { return {.state_values = state_values_}; }

  /// y = the layer's output for the rows, in the order of `spans`, which tile them; writes each span's state.
  /// input, y: [T, D]. OutOfRange for a non-finite activation.
  absl::Status forward(const ComputeContext& context, LinearInput& input, std::span<const StateSpan> spans,
                       const KvCache& cache, LayerId layer, MatView<float> y) const;

 private:
  /// What the projections gave, and where it goes.
  struct Rows {
    MatView<float> qkv;    ///< [T, channels]
    MatView<float> mixed;  ///< [T, channels]: qkv behind the convolution; queries and keys then of length 1.
    MatView<float> z;      ///< [T, value_heads * value_dim]
    MatView<float> beta;   ///< [T, value_heads]: b, then sigmoid(b).
    MatView<float> decay;  ///< [T, value_heads]: a, then the decay.
    MatView<float> out;    ///< [T, value_heads * value_dim]

    Rows between(int64_t begin, int64_t end) const;
  };
  /// A span's part of one key head and the value heads that it serves.
  void run_head(const Kernels& kernels, const Rows& rows, int64_t head, const float* from, float* to) const;
  void open_gates(const Rows& rows, int64_t value_head) const;

  int64_t key_heads_ = 0, value_heads_ = 0, key_dim_ = 0, value_dim_ = 0;
  int64_t conv_width_ = 0, channels_ = 0, conv_values_ = 0, state_values_ = 0;
  Linear qkv_, z_, b_, a_, o_;
  std::vector<float> conv_;                     // [conv_width, channels]
  std::vector<float> rate_;                     // [value_heads]: exp(decay_log).
  std::vector<float> step_bias_;                // [value_heads]
  std::vector<float> query_scale_, key_scale_;  // [key_dim]: what makes the norm below one of length 1.
  Norm norm_;
};

}  // namespace shoal
