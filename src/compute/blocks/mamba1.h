// Mamba-1 layers (Mamba1Spec) over the states of the sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/conv_state.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "compute/blocks/norm_rope.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h). A state slot of a layer holds the last conv_width - 1 rows that the convolution saw,
/// [conv_width - 1, channels], then the values of all channels [state_dim, channels], all f32.
class Mamba1 {
 public:
  using Spec = Mamba1Spec;
  Mamba1() = default;
  static absl::StatusOr<Mamba1> Load(const WeightLoader& loader, const Mamba1Spec& spec, ThreadPool& pool);

  int64_t bytes() const;
  int input_group(ActivationMode mode) const { return x_.activation_group(mode); }
  /// Runs the spans of rows in their order and writes each span's state.
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  /// What the projections gave, and where it goes.
  struct Rows {
    MatView<float> x;      ///< [T, channels]
    MatView<float> gate;   ///< [T, channels]
    MatView<float> mixed;  ///< [T, channels]: x behind the convolution.
    MatView<float> low;    ///< [T, step_rank + 2 state_dim]: what steps are made of, B, C.
    MatView<float> out;    ///< [T, channels]: steps, then what the states gave.
  };
  void convolve(const ComputeContext& context, const MixerStep& step, const Rows& rows) const;
  /// B, C, and what steps are the softplus of.
  absl::Status make_inputs(const ComputeContext& context, const Rows& rows) const;
  void scan(const ComputeContext& context, const MixerStep& step, const Rows& rows) const;
  void scan_channels(const Kernels& kernels, const MixerStep& step, const Rows& rows, Range cols) const;

  int64_t state_dim_ = 0;
  int64_t conv_values_ = 0;
  Linear x_, gate_, inputs_, steps_, o_;
  StateConvolution conv_;
  Norm step_norm_, key_norm_, query_norm_;
  std::vector<float> rate_;  // [state_dim, channels]: -exp(decay_log).
  std::vector<float> skip_;  // [channels]
};

}  // namespace shoal
