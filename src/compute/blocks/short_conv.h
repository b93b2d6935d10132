// ShortConv layers (ShortConvSpec) over the states of the sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/conv_state.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mixer_step.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h). A state slot of a layer holds the last conv_width - 1 rows that the convolution saw,
/// [conv_width - 1, channels], f32.
class ShortConv {
 public:
  using Spec = ShortConvSpec;
  ShortConv() = default;
  static absl::StatusOr<ShortConv> Load(const WeightLoader& loader, const ShortConvSpec& spec,
                                        ThreadPool& pool);

  int64_t bytes() const { return in_.bytes() + o_.bytes() + conv_.bytes(); }
  int input_group(ActivationMode mode) const { return in_.activation_group(mode); }
  /// Runs the spans of rows in their order and writes each span's state.
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  Linear in_, o_;
  StateConvolution conv_;
};

}  // namespace shoal
