// Any feed-forward, built from what a model says of a layer.
#pragma once

#include <cstdint>
#include <variant>

#include "absl/status/statusor.h"
#include "compute/blocks/feed_forward_segments.h"
#include "compute/blocks/mlp.h"
#include "compute/blocks/moe.h"
#include "compute/stage_step.h"

namespace shoal {

/// Of layers that are a mixer alone.
struct NoFeedForwardBlock {
  int64_t bytes() const { return 0; }
  int input_group(ActivationMode) const { return 0; }
};

using AnyFeedForward = std::variant<Mlp, Moe, SegmentedMlp, NoFeedForwardBlock>;

/// Of layer `layer` of the model, which has segments where StageOptions say so. Errors of the blocks' Load, and of
/// CutIntoSegments.
absl::StatusOr<AnyFeedForward> LoadFeedForward(const ResolvedWeights& weights, const WeightLoader& loader,
                                               const StageOptions& options, int64_t layer, ThreadPool& pool);

}  // namespace shoal
