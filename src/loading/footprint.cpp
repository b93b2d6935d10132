#include "loading/footprint.h"

#include <algorithm>
#include <set>

#include "base/status.h"
#include "kernels/packed.h"
#include "loading/weight_loader.h"

namespace shoal {
namespace {

std::string FormatName(const PackedFormat& format) {
  if (!format.affine()) return std::string(DTypeName(format.dtype));
  return fmt::format("{}-bit groups of {}, {} scales", format.bits, format.group, DTypeName(format.dtype));
}

WeightBytes BytesOf(const WeightRef& ref, const StoredWeight& weight) {
  const bool vector = ref.shape.size() == 1;  // Norms and biases are held as f32.
  return {.parameters = weight.elements(),
          .stored = weight.stored_bytes(),
          .packed = vector ? weight.elements() * int64_t{sizeof(float)}
                           : PackedBytes(weight.format, weight.rows, weight.cols)};
}

/// Collects what ForEachWeight shows; the first error ends the collecting.
class Measurer {
 public:
  Measurer(const ModelSpec& spec, const WeightLoader& loader) : spec_(spec), loader_(loader) {
    for (const LayerSpec& layer : spec.layers) {
      const MoeSpec* moe = MoeOf(layer);
      LayerFootprint empty;
      empty.experts.resize(moe == nullptr ? 0 : moe->experts.size());
      const KvLayerShape kept = KvShapeOf(layer.mixer);
      empty.cached_values_per_position = int64_t{2} * kept.kv_heads * kept.head_dim;
      empty.state_values = kept.state_values;
      footprint_.layers.push_back(std::move(empty));
    }
  }

  void add(const WeightUse& use) {
    if (!status_.ok()) return;
    const absl::StatusOr<StoredWeight> weight = loader_.find(use.ref);
    if (!weight.ok()) {
      status_ = weight.status();
      return;
    }
    const WeightBytes bytes = BytesOf(use.ref, *weight);
    place(use) += bytes;
    remember(*weight);
    if (use.role == "head" && spec_.tied_head) return;
    footprint_.total += bytes;
    footprint_.by_role[std::string(use.role)] += bytes;
    footprint_.by_format[FormatName(weight->format)] += bytes;
  }

  absl::StatusOr<Footprint> finish() && {
    RETURN_IF_ERROR(status_);
    for (const TensorInfo& tensor : loader_.checkpoint().tensors()) {
      if (names_.contains(tensor.name)) continue;
      if (tensor.name.ends_with(".bias") &&
          names_.contains(tensor.name.substr(0, tensor.name.size() - 4) + "weight")) {
        return InvalidArgument(
            "checkpoint: tensor '{}' in {}: expected none, as {} says that this projection has no bias",
            tensor.name, loader_.checkpoint().folder(), loader_.checkpoint().config().file());
      }
      const auto known = std::ranges::find_if(
          spec_.ignored_tensors, [&](const auto& part) { return tensor.name.starts_with(part.first); });
      if (known != spec_.ignored_tensors.end()) {
        ++footprint_.ignored_tensors[known->second];
      } else {
        footprint_.unused_tensors.push_back(tensor.name);
      }
    }
    return std::move(footprint_);
  }

 private:
  WeightBytes& place(const WeightUse& use) {
    if (use.layer < 0) return use.is_head ? footprint_.head : footprint_.embedding;
    LayerFootprint& layer = footprint_.layers[static_cast<size_t>(use.layer)];
    return use.expert < 0 ? layer.fixed : layer.experts[static_cast<size_t>(use.expert)];
  }
  void remember(const StoredWeight& weight) {
    names_.insert(weight.source->name());
    if (!weight.format.affine()) return;
    names_.insert(weight.source->base + ".scales");
    names_.insert(weight.source->base + ".biases");
  }

  const ModelSpec& spec_;
  const WeightLoader& loader_;
  Footprint footprint_;
  std::set<std::string> names_;
  absl::Status status_;
};

}  // namespace

WeightBytes& WeightBytes::operator+=(const WeightBytes& other) {
  parameters += other.parameters;
  stored += other.stored;
  packed += other.packed;
  return *this;
}

absl::StatusOr<Footprint> MeasureFootprint(const ModelSpec& spec, const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const WeightLoader loader, WeightLoader::Create(checkpoint));
  Measurer measurer(spec, loader);
  ForEachWeight(spec, [&](const WeightUse& use) { measurer.add(use); });
  return std::move(measurer).finish();
}

}  // namespace shoal
