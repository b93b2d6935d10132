#include "compute/segments.h"

#include "base/check.h"
#include "base/status.h"
#include "kernels/packed.h"

namespace shoal {
namespace {

/// Of hidden values that stay floats any cut would do.
constexpr int64_t kFloatUnit = 32;
/// A row of `down` whose tile is cut would be multiplied as one of padding.
constexpr int64_t kOutUnit = kTileRows;

/// Columns of the hidden values that must stay together.
int64_t HiddenUnit(const StoredWeight& down) {
  return down.format.affine() ? AffineSpan(down.format.group) : kFloatUnit;
}

}  // namespace

const std::vector<int32_t>& HeldSegments::of(int64_t layer) const {
  static const std::vector<int32_t> kNone;
  const auto i = static_cast<size_t>(layer);
  return layer >= 0 && i < held.size() ? held[i] : kNone;
}

const DenseSpec* SharedByAllRows(const LayerSpec& layer) {
  const MoeSpec* moe = MoeOf(layer);
  if (moe == nullptr) return DenseOf(layer);
  return moe->shared ? &*moe->shared : nullptr;
}

int32_t SegmentsMax(const ResolvedWeights& weights, const LayerSpec& layer) {
  const DenseSpec* dense = SharedByAllRows(layer);
  if (dense == nullptr || dense->gate_cutoff > 0) return 0;  // A cutoff needs the whole gate.
  int64_t most = kSegmentsMax;
  std::vector<const LinearSpec*> linears = dense->inputs();
  linears.push_back(&dense->down);
  for (const LinearSpec* linear : linears) {
    const StoredWeight* stored = weights.find(linear->weight);
    if (stored == nullptr || stored->strided()) return 0;  // Its rows do not lie one behind the other.
    const int64_t unit = linear == &dense->down ? kOutUnit : 1;
    most = std::min(most, stored->rows / unit);
  }
  const StoredWeight& down = *weights.find(dense->down.weight);
  return static_cast<int32_t>(std::min(most, down.cols / HiddenUnit(down)));
}

absl::StatusOr<SegmentShape> CutIntoSegments(const ResolvedWeights& weights, LayerId layer, int32_t count) {
  const LayerSpec* spec = FindLayer(weights.spec(), layer.value);
  const int32_t most = spec == nullptr ? 0 : SegmentsMax(weights, *spec);
  if (count < 1 || count > most) {
    return InvalidArgument(
        "layer {}: its dense feed-forward or shared expert has at most {} segments, got {}", layer, most,
        count);
  }
  const DenseSpec& dense = *SharedByAllRows(*spec);
  const std::vector<const LinearSpec*> inputs = dense.inputs();
  const PackedFormat first = weights.find(inputs.front()->weight)->format;
  const PackedFormat last = weights.find(inputs.back()->weight)->format;
  const StoredWeight& down = *weights.find(dense.down.weight);
  SegmentShape shape{.width = down.cols};
  // Where they take codes of different groups, rows travel as f32 and each holder makes both.
  if (first.affine() && last.affine() && first.group == last.group) shape.input_group = first.group;
  if (down.format.affine()) shape.hidden_group = down.format.group;
  for (int32_t i = 0; i < count; ++i) {
    shape.hidden.push_back(StaticRange(down.cols, HiddenUnit(down), i, count));
    shape.out.push_back(StaticRange(down.rows, kOutUnit, i, count));
  }
  return shape;
}

int64_t TotalSize(std::span<const Range> ranges, std::span<const int32_t> segments) {
  int64_t size = 0;
  for (const int32_t segment : segments) {
    SHOAL_CHECK(segment >= 0 && segment < std::ssize(ranges));
    size += ranges[static_cast<size_t>(segment)].size();
  }
  return size;
}

}  // namespace shoal
