#include "compute/blocks/feed_forward_blocks.h"

#include <optional>

#include "base/check.h"
#include "base/status.h"
#include "models/spec.h"

namespace shoal {

absl::StatusOr<AnyFeedForward> LoadFeedForward(const ResolvedWeights& weights, const WeightLoader& loader,
                                               const StageOptions& options, int64_t layer, ThreadPool& pool) {
  const LayerSpec* spec = FindLayer(weights.spec(), layer);
  SHOAL_CHECK(spec != nullptr);
  std::optional<SegmentedMlp> segmented;
  if (const int32_t count = options.segment_count(layer); count > 0) {
    ASSIGN_OR_RETURN(const SegmentShape shape,
                     CutIntoSegments(weights, LayerId{static_cast<int32_t>(layer)}, count));
    segmented.emplace(shape);
  }
  if (const MoeSpec* moe = MoeOf(*spec)) return Moe::Load(loader, *moe, pool, segmented);
  if (segmented) return *segmented;
  if (DenseOf(*spec) == nullptr) return NoFeedForwardBlock();
  return Mlp::Load(loader, *DenseOf(*spec), pool);
}

}  // namespace shoal
