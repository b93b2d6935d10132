#include "loading/footprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "models/spec.h"

namespace shoal {
namespace {

std::string FormatName(const PackedFormat& format) {
  if (!format.affine()) return std::string(DTypeName(format.dtype));
  return fmt::format("{}-bit groups of {}, {} scales", format.bits, format.group, DTypeName(format.dtype));
}

Footprint Empty(const ModelSpec& spec) {
  Footprint footprint;
  for (const LayerSpec& layer : spec.layers) {
    const MoeSpec* moe = MoeOf(layer);
    LayerFootprint empty;
    empty.experts.resize(moe == nullptr ? 0 : moe->experts.size());
    const KvLayerShape kept = CacheShapeOf(layer.mixer);
    empty.cached_values_per_position = kept.values_per_position();
    empty.state_values = kept.state_values;
    footprint.layers.push_back(std::move(empty));
  }
  return footprint;
}

bool IsFeedForward(const WeightUse& use) { return !use.is_mtp && use.layer >= 0 && use.role == "mlp"; }

WeightBytes& PlaceOf(const WeightUse& use, Footprint& footprint) {
  if (use.is_mtp) return footprint.mtp;
  if (use.layer < 0) return use.is_head ? footprint.head : footprint.embedding;
  LayerFootprint& layer = footprint.layers[static_cast<size_t>(use.layer)];
  return use.expert < 0 ? layer.fixed : layer.experts[static_cast<size_t>(use.expert)];
}

}  // namespace

WeightBytes& WeightBytes::operator+=(const WeightBytes& other) {
  parameters += other.parameters;
  stored += other.stored;
  packed += other.packed;
  return *this;
}

Footprint MeasureFootprint(const ResolvedWeights& weights) {
  const ModelSpec& spec = weights.spec();
  Footprint footprint = Empty(spec);
  for (const ResolvedWeight& weight : weights.all()) {
    const WeightBytes bytes{.parameters = weight.stored.elements(),
                            .stored = weight.stored.stored_bytes(),
                            .packed = weight.packed_bytes};
    PlaceOf(weight.use, footprint) += bytes;
    if (IsFeedForward(weight.use))
      footprint.layers[static_cast<size_t>(weight.use.layer)].feed_forward += bytes;
    if (weight.use.role == "head" && spec.tied_head) continue;
    footprint.total += bytes;
    footprint.by_role[std::string(weight.use.role)] += bytes;
    footprint.by_format[FormatName(weight.stored.format)] += bytes;
  }
  for (const TensorInfo* tensor : weights.unused()) {
    const auto known = std::ranges::find_if(
        spec.ignored_tensors, [&](const auto& part) { return tensor->name.starts_with(part.first); });
    if (known != spec.ignored_tensors.end()) {
      ++footprint.ignored_tensors[known->second];
    } else {
      footprint.unused_tensors.push_back(tensor->name);
    }
  }
  return footprint;
}

}  // namespace shoal
