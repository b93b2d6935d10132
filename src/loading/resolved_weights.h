// All weights of a spec, found in a checkpoint: made once when a model is opened, and read by whatever needs to know where
// weights are and how large (footprint, samples, loading, shards, conversion, the work of a step).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/checkpoint.h"
#include "loading/stored_weight.h"
#include "models/spec.h"

namespace shoal {

struct ResolvedWeight {
  WeightUse use;  ///< Its ref is one of ResolvedWeights::spec().
  StoredWeight stored;
  int64_t packed_bytes = 0;  ///< In memory: norms and biases as f32, matrices with their padding to tiles.
};

/// Immutable, and safe to share between threads.
class ResolvedWeights {
 public:
  /// NotFound or InvalidArgument for the first weight, in the order of ForEachWeight, that is missing or of the wrong
  /// shape, and for a bias that the spec has no place for: file, tensor, expected and got. ModelSpec::mtp is left out
  /// where the checkpoint has no such projection.
  static absl::StatusOr<std::shared_ptr<const ResolvedWeights>> Create(
      std::shared_ptr<const Checkpoint> checkpoint, ModelSpec spec);
  /// Of the folder's model. The errors of Checkpoint::Open and SpecFor, too.
  /// identity: as Checkpoint::Open.
  static absl::StatusOr<std::shared_ptr<const ResolvedWeights>> Open(const std::string& folder,
                                                                     const std::string& identity = "");

  ResolvedWeights(const ResolvedWeights&) = delete;
  ResolvedWeights& operator=(const ResolvedWeights&) = delete;

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const std::shared_ptr<const Checkpoint>& shared_checkpoint() const { return checkpoint_; }
  const ModelSpec& spec() const { return spec_; }
  const std::shared_ptr<const WeightFinder>& finder() const { return finder_; }

  /// In the order of ForEachWeight.
  std::span<const ResolvedWeight> all() const { return weights_; }
  /// The weight behind a ref of spec(), known by its address; nullptr for any other.
  const StoredWeight* find(const WeightRef& ref) const;
  /// Tensors of the checkpoint that are behind no weight, sorted by name.
  std::span<const TensorInfo* const> unused() const { return unused_; }

 private:
  ResolvedWeights(std::shared_ptr<const Checkpoint> checkpoint, ModelSpec spec, WeightFinder finder);
  absl::Status find_all();
  absl::Status find_unused();

  std::shared_ptr<const Checkpoint> checkpoint_;
  const ModelSpec spec_;
  std::shared_ptr<const WeightFinder> finder_;
  std::vector<ResolvedWeight> weights_;
  std::unordered_map<const WeightRef*, size_t> index_;
  std::vector<const TensorInfo*> unused_;
};

}  // namespace shoal
