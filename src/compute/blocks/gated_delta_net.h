// GatedDeltaNet layers (GatedDeltaNetSpec) over the states of the sequences.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/conv_state.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h). A state slot of a layer holds the last conv_width - 1 rows that the
/// convolution saw, [conv_width - 1, channels], then per value head its matrix [key_dim, value_dim], all f32.
class GatedDeltaNet {
 public:
  using Spec = GatedDeltaNetSpec;
  GatedDeltaNet() = default;
  static absl::StatusOr<GatedDeltaNet> Load(const WeightLoader& loader, const GatedDeltaNetSpec& spec,
                                            ThreadPool& pool);

  int64_t bytes() const;
  int input_group(ActivationMode mode) const { return q_.activation_group(mode); }
  /// Runs the spans of rows in their order and writes each span's state.
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  /// What the projections gave, and where it goes.
  struct Rows {
    MatView<float> qkv;    ///< [T, channels]
    MatView<float> mixed;  ///< [T, channels]: qkv behind the convolution; queries and keys then of length 1.
    MatView<float> z;      ///< [T, value_heads * value_dim]
    MatView<float> beta;   ///< [T, value_heads]: b, then sigmoid(b).
    MatView<float> decay;  ///< [T, decays]: a, then the decays.
    MatView<float> out;    ///< [T, value_heads * value_dim]

    Rows between(int64_t begin, int64_t end) const;
  };
  /// A span's part of one key head and the value heads that it serves.
  void run_head(const Kernels& kernels, const Rows& rows, int64_t head, const float* from, float* to) const;
  void open_gates(const Rows& rows, int64_t value_head) const;
  absl::Status project(const ComputeContext& context, LinearInput& input, const Rows& rows) const;

  int64_t key_heads_ = 0, value_heads_ = 0, key_dim_ = 0, value_dim_ = 0;
  int64_t conv_values_ = 0;
  int64_t decays_each_ = 1;  // Of a head.
  std::optional<double> decay_bound_;
  bool sigmoid_gate_ = false;
  Linear q_, k_, v_, z_, b_, a_, o_;
  std::optional<Linear> z_in_, a_in_;
  StateConvolution conv_;
  std::vector<float> rate_;                     // [value_heads]: exp(decay_log).
  std::vector<float> step_bias_;                // [decays]
  std::vector<float> query_scale_, key_scale_;  // [key_dim]: what makes the norm below one of length 1.
  Norm norm_;
};

}  // namespace shoal
