#include "compute/blocks/experts.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/status.h"

namespace shoal {

absl::StatusOr<int> ExpertInputGroup(const WeightLoader& loader, const MoeSpec& moe, ActivationMode mode) {
  std::optional<int> agreed;
  for (const DenseSpec& expert : moe.experts) {
    for (const LinearSpec* linear : expert.inputs()) {
      ASSIGN_OR_RETURN(const StoredWeight weight, loader.find(*linear));
      if (!agreed) agreed = weight.format.group;
      if (*agreed == weight.format.group) continue;
      return InvalidArgument(
          "checkpoint: tensor '{}' in {}: expected the group size of the layer's other experts, {}, found {} "
          "(0: not "
          "quantized). Rows are quantized once for all experts of a layer: convert with one group size.",
          weight.source->name(), loader.checkpoint().folder(), *agreed, weight.format.group);
    }
  }
  SHOAL_CHECK(agreed.has_value());
  return mode == ActivationMode::kInt8 ? *agreed : 0;
}

absl::Status ExpertSet::prepare(const ResolvedWeights& weights, LayerId layer,
                                std::span<const ExpertId> experts, std::vector<const DenseSpec*>& specs) {
  const ModelSpec& spec = weights.spec();
  const LayerSpec* of = FindLayer(spec, layer.value);
  if (of == nullptr)
    return InvalidArgument("experts: layer {} of a model with {} layers", layer, spec.layer_count());
  const MoeSpec* moe = MoeOf(*of);
  if (moe == nullptr)
    return InvalidArgument("experts: layer {} of {} has no experts", layer, weights.checkpoint().folder());
  layer_ = layer;
  width_ = spec.width;
  ids_.assign(experts.begin(), experts.end());
  std::sort(ids_.begin(), ids_.end());
  ASSIGN_OR_RETURN(group_, ExpertInputGroup(WeightLoader(weights), *moe, ActivationMode::kInt8));
  for (size_t i = 0; i < ids_.size(); ++i) {
    const ExpertId id = ids_[i];
    if (id.value < 0 || id.value >= static_cast<int64_t>(moe->experts.size())) {
      return InvalidArgument("experts: expert {} of layer {}, which has {}", id, layer, moe->experts.size());
    }
    if (i > 0 && ids_[i - 1] == id)
      return InvalidArgument("experts: expert {} of layer {} is named twice", id, layer);
    specs.push_back(&moe->experts[static_cast<size_t>(id.value)]);
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertSet> ExpertSet::Load(const ResolvedWeights& weights, LayerId layer,
                                          std::span<const ExpertId> experts, ThreadPool& pool,
                                          PackedStore* store) {
  ExpertSet set;
  std::vector<const DenseSpec*> specs;
  RETURN_IF_ERROR(set.prepare(weights, layer, experts, specs));
  ASSIGN_OR_RETURN(set.mlps_, Mlp::LoadExperts(WeightLoader(weights, store), specs, pool));
  return set;
}

absl::StatusOr<ExpertSet> ExpertSet::LoadWithoutWeights(const ResolvedWeights& weights, LayerId layer,
                                                        std::span<const ExpertId> experts) {
  ExpertSet set;
  std::vector<const DenseSpec*> specs;
  RETURN_IF_ERROR(set.prepare(weights, layer, experts, specs));
  ASSIGN_OR_RETURN(set.mlps_, Mlp::LoadWithoutWeights(WeightLoader(weights), specs));
  return set;
}

void ExpertSet::place(ExpertId expert, const std::shared_ptr<std::byte>& memory,
                      const std::array<int64_t, 3>& offsets) {
  const int64_t index = slot(expert);
  SHOAL_CHECK_GE(index, 0);
  mlps_[static_cast<size_t>(index)].place(memory, offsets);
}

int64_t ExpertSet::bytes() const {
  int64_t bytes = 0;
  for (const Mlp& mlp : mlps_) bytes += mlp.bytes();
  return bytes;
}

int64_t ExpertSet::slot(ExpertId expert) const {
  const auto found = std::lower_bound(ids_.begin(), ids_.end(), expert);
  return found == ids_.end() || *found != expert ? -1 : found - ids_.begin();
}

absl::Status ExpertSet::forward(const ComputeContext& context, ExpertId expert, const ExpertRows& rows,
                                MatView<float> y) const {
  const ExpertRange all[] = {{expert, {0, rows.x.rows}}};
  return forward(context, all, rows, y);
}

absl::Status ExpertSet::forward(const ComputeContext& context, std::span<const ExpertRange> ranges,
                                const ExpertRows& rows, MatView<float> y) const {
  SHOAL_CHECK(rows.x.cols == width_ && y.cols == width_ && y.rows == rows.x.rows);
  const ArenaScope scope(*context.arena);
  const std::span<MlpTask> tasks = context.arena->allocate<MlpTask>(static_cast<int64_t>(ranges.size()));
  for (size_t i = 0; i < ranges.size(); ++i) {
    const int64_t index = slot(ranges[i].expert);
    SHOAL_CHECK_GE(index, 0);
    tasks[i] = {&mlps_[static_cast<size_t>(index)], ranges[i].rows};
  }
  const bool codes_given = input_group(context.activations) != 0 && rows.quantized != nullptr;
  SHOAL_CHECK(!codes_given || rows.quantized->group == group_);
  LinearInput input = codes_given ? LinearInput(rows.x, *rows.quantized) : LinearInput(rows.x);
  return RunMlps(context, input, tasks, y);
}

}  // namespace shoal
