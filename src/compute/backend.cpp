#include "compute/backend.h"

#include <algorithm>

#include "base/status.h"
#include "numeric/cache_shape.h"

namespace shoal {
namespace {

std::string FormatText(const PackedFormat& format) {
  return format.affine() ? fmt::format("{}-bit in groups of {}, scales of {}", format.bits, format.group,
                                       DTypeName(format.dtype))
                         : std::string(DTypeName(format.dtype));
}

}  // namespace

bool ReadsWeight(const StageOptions& stage, const std::vector<std::vector<ExpertId>>& experts,
                 const HeldSegments& segments, const WeightUse& use) {
  if (use.is_mtp) return stage.mtp;
  if (use.layer < 0) return use.is_head ? stage.head : stage.table();
  if (segments.divides(use)) return !segments.of(use.layer).empty();
  if (use.expert < 0) return stage.layers.contains(use.layer);
  return std::ranges::binary_search(experts[static_cast<size_t>(use.layer)],
                                    ExpertId{static_cast<int32_t>(use.expert)});
}

absl::Status CheckTaken(const Backend& backend, const BackendLoad& load) {
  const BackendLimits limits = backend.limits();
  const ModelSpec& spec = load.weights->spec();
  if (load.stage.mtp && !limits.mtp) {
    return Unimplemented("backend {} has no heads for multi-token prediction: serve with --mtp off",
                         backend.numerics_class());
  }
  if (load.stage.mtp && !spec.mtp) {
    return InvalidArgument("checkpoint: {} has no head for multi-token prediction, which the plan asks for",
                           load.weights->checkpoint().folder());
  }
  if (!load.segments.counts.empty() && !limits.segments) {
    return Unimplemented("backend {} computes no segments of feed-forwards: serve without --split-ffn",
                         backend.numerics_class());
  }
  const Range layers = load.stage.cached_layers();
  for (int64_t i = layers.begin; i < layers.end; ++i) {
    const KvLayerShape shape = CacheShapeOf(FindLayer(spec, i)->mixer);
    if (shape.head_dim > limits.head_dim_max) {
      return Unimplemented(
          "layer {}: heads of {} numbers in the cache; backend {} takes at most {}. Give the layer to a node "
          "with "
          "another backend",
          i, shape.head_dim, backend.numerics_class(), limits.head_dim_max);
    }
    if (WorkOf(FindLayer(spec, i)->mixer).attended_max > 0 && !limits.picks) {
      return Unimplemented(
          "layer {} picks the positions it attends to, which backend {} does not compute. Give it to a node "
          "with another backend",
          i, backend.numerics_class());
    }
    if (shape.has_states() && !limits.states) {
      return Unimplemented(
          "layer {} keeps a state, which backend {} does not compute. Give it to a node with another backend",
          i, backend.numerics_class());
    }
  }
  for (const ResolvedWeight& weight : load.weights->all()) {
    const StoredWeight& stored = weight.stored;
    if (stored.is_vector || !load.reads(weight.use) || backend.takes(stored.format)) continue;
    return Unimplemented(
        "checkpoint: tensor '{}' in {} is {}, which backend {} does not multiply. Convert the model, or give "
        "the "
        "tensor's layer to a node with another backend",
        stored.source->name(), load.weights->checkpoint().folder(), FormatText(stored.format),
        backend.numerics_class());
  }
  return absl::OkStatus();
}

absl::Status BackendSession::mtp_forward(const StageStep&, std::span<const int32_t>, MatView<float>) {
  return Unimplemented("this backend has no heads for multi-token prediction: serve with --mtp off");
}

absl::Status BackendSession::mtp_head(MatView<const float>, int64_t) {
  return Unimplemented("this backend has no heads for multi-token prediction: serve with --mtp off");
}

absl::Status BackendSession::run_hidden(LayerId, std::span<const int32_t>, const SegmentRows&, SegmentRows&) {
  return Unimplemented("this backend computes no segments of feed-forwards: serve without --split-ffn");
}

absl::Status BackendSession::run_down(LayerId, std::span<const int32_t>, const SegmentRows&, MatView<float>) {
  return Unimplemented("this backend computes no segments of feed-forwards: serve without --split-ffn");
}

absl::Status BackendSession::export_cached(const CachePlace&, const ImageId&, std::vector<std::byte>&) {
  return Unimplemented("this backend does not export its caches: serve without --kv-disk");
}

absl::Status BackendSession::import_cached(const CachePlace&, const ImageId&, std::span<const std::byte>) {
  return Unimplemented("this backend does not import caches: serve without --kv-disk");
}

absl::Status BackendCache::export_image(LayerId, const CachePlace&, const ImageId&,
                                        std::vector<std::byte>&) const {
  return Unimplemented("this backend does not export its caches");
}

absl::StatusOr<int64_t> BackendSession::import_image(LayerId, const CachePlace&, const ImageId&,
                                                     std::span<const std::byte>) {
  return Unimplemented("this backend does not import caches");
}

absl::Status CheckOptions(const Backend& backend, const BackendSessionOptions& options) {
  const int64_t rows_max = backend.limits().rows_max;
  if (options.rows_max > rows_max) {
    return InvalidArgument("session: steps of {} rows; backend {} takes at most {}", options.rows_max,
                           backend.numerics_class(), rows_max);
  }
  return absl::OkStatus();
}

}  // namespace shoal
