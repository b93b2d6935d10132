#include "loading/resolved_weights.h"

#include <string_view>
#include <unordered_set>
#include <utility>

#include "base/status.h"
#include "models/family.h"

namespace shoal {
namespace {

int64_t PackedBytesOf(const StoredWeight& weight) {
  return weight.is_vector ? weight.elements() * int64_t{sizeof(float)}
                          : PackedBytes(weight.format, weight.rows, weight.cols);
}

}  // namespace

ResolvedWeights::ResolvedWeights(std::shared_ptr<const Checkpoint> checkpoint, ModelSpec spec,
                                 WeightFinder finder)
    : checkpoint_(std::move(checkpoint)),
      spec_(std::move(spec)),
      finder_(std::make_shared<const WeightFinder>(std::move(finder))) {}

absl::StatusOr<std::shared_ptr<const ResolvedWeights>> ResolvedWeights::Create(
    std::shared_ptr<const Checkpoint> checkpoint, ModelSpec spec) {
  ASSIGN_OR_RETURN(WeightFinder finder, WeightFinder::Create(*checkpoint));
  // Many folders keep the config and leave the tensors out.
  if (spec.mtp && absl::IsNotFound(finder.find(spec.mtp->projection.weight).status())) spec.mtp.reset();
  std::shared_ptr<ResolvedWeights> resolved(
      new ResolvedWeights(std::move(checkpoint), std::move(spec), std::move(finder)));
  RETURN_IF_ERROR(resolved->find_all());
  RETURN_IF_ERROR(resolved->find_unused());
  return resolved;
}

absl::StatusOr<std::shared_ptr<const ResolvedWeights>> ResolvedWeights::Open(const std::string& folder,
                                                                             const std::string& identity) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(folder, identity));
  ASSIGN_OR_RETURN(ModelSpec spec, SpecFor(checkpoint->config()));
  return Create(std::move(checkpoint), std::move(spec));
}

absl::Status ResolvedWeights::find_all() {
  absl::Status status;
  ForEachWeight(spec_, [&](const WeightUse& use) {
    if (!status.ok()) return;
    absl::StatusOr<StoredWeight> stored = finder_->find(use.ref);
    status = stored.status();
    if (!status.ok()) return;
    stored->unit = UnitOf(use, spec_.tied_head);
    index_.emplace(&use.ref, weights_.size());
    weights_.push_back({use, *stored, PackedBytesOf(*stored)});
  });
  return status;
}

absl::Status ResolvedWeights::find_unused() {
  std::unordered_set<std::string> names;
  for (const ResolvedWeight& weight : weights_) {
    const WeightSource& source = *weight.stored.source;
    names.insert(source.name());
    if (!weight.stored.format.affine()) continue;
    names.insert(source.base + ".scales");
    names.insert(source.base + ".biases");
  }
  constexpr std::string_view kBias = "bias";
  for (const TensorInfo& tensor : checkpoint_->tensors()) {
    if (names.contains(tensor.name)) continue;
    if (tensor.name.ends_with(".bias") &&
        names.contains(tensor.name.substr(0, tensor.name.size() - kBias.size()) + "weight")) {
      return InvalidArgument(
          "checkpoint: tensor '{}' in {}: expected none, as {} says that this projection has no bias",
          tensor.name, checkpoint_->folder(), checkpoint_->config().file());
    }
    unused_.push_back(&tensor);
  }
  return absl::OkStatus();
}

const StoredWeight* ResolvedWeights::find(const WeightRef& ref) const {
  const auto found = index_.find(&ref);
  return found == index_.end() ? nullptr : &weights_[found->second].stored;
}

}  // namespace shoal
