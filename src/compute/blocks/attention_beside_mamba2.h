// Layers of attention and Mamba 2 side by side (AttentionBesideMamba2Spec).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute/blocks/attention.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mamba2.h"
#include "compute/blocks/mixer_step.h"
#include "models/spec.h"

namespace shoal {

/// A mixer block (mixer_blocks.h) of two others. The layer's blocks hold what Attention says, its state slots what Mamba2
/// says.
class AttentionBesideMamba2 {
 public:
  using Spec = AttentionBesideMamba2Spec;
  AttentionBesideMamba2() = default;
  static absl::StatusOr<AttentionBesideMamba2> Load(const WeightLoader& loader,
                                                    const AttentionBesideMamba2Spec& spec, ThreadPool& pool);

  int64_t bytes() const { return attention_.bytes() + mamba_.bytes(); }
  int input_group(ActivationMode mode) const { return attention_.input_group(mode); }
  absl::Status forward(const ComputeContext& context, LinearInput& input, const MixerStep& step,
                       MatView<float> y) const;

 private:
  Attention attention_;
  Mamba2 mamba_;
  float attention_scale_ = 1;
  float mamba_scale_ = 1;
};

}  // namespace shoal
