// Mamba-2 layers (Mamba2Spec) over the states of the sequences.
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
/// [conv_width - 1, channels], then per head its matrix [state_dim, head_dim], all f32.
class Mamba2 {
 public:
  using Spec = Mamba2Spec;
  Mamba2() = default;
  static absl::StatusOr<Mamba2> Load(const WeightLoader& loader, const Mamba2Spec& spec, ThreadPool& pool);

  int64_t bytes() const;
  int input_group(ActivationMode mode) const { return xbc_.activation_group(mode); }
  /// Runs the spans of rows in their order and writes each span's state.
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  /// What the projections gave, and where it goes.
  struct Rows {
    MatView<float> gate;   ///< [T, inner]
    MatView<float> xbc;    ///< [T, channels]
    MatView<float> mixed;  ///< [T, channels]: xbc behind the convolution.
    MatView<float> step;   ///< [T, heads]
    MatView<float> decay;  ///< [T, heads]
    MatView<float> out;    ///< [T, inner]
  };
  void run_head(const ComputeContext& context, const MixerStep& step, const Rows& rows, int64_t head) const;
  /// out of `part` = norm(out * silu(gate)), as the spec says.
  void finish(const Kernels& kernels, const Rows& rows, Range part) const;

  int64_t heads_ = 0, head_dim_ = 0, groups_ = 0, state_dim_ = 0;
  int64_t conv_values_ = 0;
  double step_min_ = 0, step_max_ = 0;
  double step_factor_ = 1;
  float gate_factor_ = 1;
  Linear gate_, xbc_, step_, o_;
  StateConvolution conv_;
  std::vector<float> rate_, step_bias_, skip_;  // [heads]; rate: exp(decay_log).
  std::vector<float> norm_;                     // [inner]; empty: none.
  float norm_eps_ = 0;
  bool norm_before_gate_ = false;
};

}  // namespace shoal
