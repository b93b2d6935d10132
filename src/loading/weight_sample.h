// Hashes of a few rows of a model's weights. Two fine-tunes of one model have the same config and the same
// table of tensors, so Checkpoint::hash() is the same; nodes that each read a copy of their own compare these
// as well.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "loading/resolved_weights.h"

namespace shoal {

struct WeightSample {
  int64_t weight = 0;  ///< Its place in the order of ForEachWeight.
  uint64_t hash = 0;
  std::string name;  ///< Of the tensor, for messages; not sent.
};

/// At most so many are taken of routed experts, and of all else: pages from all over the files, so seconds
/// where a disk has to seek for each.
inline constexpr int64_t kWeightSamplesMax = 256;

/// The middle rows of some of the weights that `holds` picks, in the order of ForEachWeight, as they are in
/// the files: of all, or of one in each run of as many as it takes, experts and others apart. Which one of a
/// run looks random, so that no kind of weight is left out for its place in a layer, and is the same
/// everywhere. Weights that a shard lacks are skipped.
std::vector<WeightSample> SampleWeights(const ResolvedWeights& weights,
                                        absl::FunctionRef<bool(const WeightUse&)> holds);

/// FailedPrecondition for the first weight in both of which they tell another hash. Both in ascending order.
absl::Status CompareSamples(std::span<const WeightSample> expected, std::span<const WeightSample> found);

}  // namespace shoal
