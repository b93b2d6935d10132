// The terms of a feed-forward that every row passes and several nodes share: down(gating(gate x, up x)) of a dense layer,
// or of the shared expert of a layer with experts. Each node holds segments. A segment is some rows of gate and up, which
// give as many hidden values, and some rows of down. Every value is the dot product that it is without segments, so the
// bits stay (docs/decisions/0036, 0053).
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "kernels/kernels.h"
#include "loading/resolved_weights.h"
#include "models/spec.h"
#include "numeric/view.h"

namespace shoal {

/// Which layers have segments, and which of them a node holds.
struct HeldSegments {
  std::vector<int32_t> counts;  ///< [L]: segments of the layer, 0 where it is whole; or empty: all are whole.
  std::vector<std::vector<int32_t>> held;  ///< [L], ascending; empty where `counts` is.

  int32_t count(int64_t layer) const {
    const auto i = static_cast<size_t>(layer);
    return layer >= 0 && i < counts.size() ? counts[i] : 0;
  }
  /// Those of the layer that are held.
  const std::vector<int32_t>& of(int64_t layer) const;
  /// Whether a weight is part of a feed-forward with segments.
  bool divides(const WeightUse& use) const {
    return !use.is_mtp && use.expert < 0 && use.role == "mlp" && count(use.layer) > 0;
  }
  /// The share of such a weight's bytes that is held, all segments taken for equal; all bytes of any other.
  int64_t bytes_held(const WeightUse& use, int64_t bytes) const {
    return !divides(use) ? bytes : bytes * std::ssize(of(use.layer)) / count(use.layer);
  }
  /// Whether none is held.
  bool empty() const {
    return std::ranges::all_of(held, [](const auto& segments) { return segments.empty(); });
  }
  bool operator==(const HeldSegments&) const = default;
};

/// How a layer's feed-forward is cut.
struct SegmentShape {
  int64_t width = 0;     ///< F
  int input_group = 0;   ///< Columns per scale of the codes that it takes; 0: rows enter as f32.
  int hidden_group = 0;  ///< The same of what `down` takes.
  std::vector<Range>
      hidden;  ///< By segment: its part of [0, F), at multiples of hidden_group. None is empty.
  std::vector<Range> out = {};  ///< By segment: its part of [0, D).
};

inline constexpr int32_t kSegmentsMax = 64;

/// Rows that go into segments or come out: as f32, or as codes where what takes them multiplies codes.
struct SegmentRows {
  MatView<const float> x;
  std::optional<QuantizedRows> codes = {};

  int64_t rows() const { return codes ? codes->rows : x.rows; }
  int64_t cols() const { return codes ? codes->cols : x.cols; }
};

/// What can have segments: the feed-forward of a dense layer, or the shared expert of one with experts; or nullptr.
const DenseSpec* SharedByAllRows(const LayerSpec& layer);

/// The most segments that it can be cut into; below 2 where it can't.
int32_t SegmentsMax(const ResolvedWeights& weights, const LayerSpec& layer);

/// For activations of 8 bits. InvalidArgument: a layer without such a feed-forward, or more than SegmentsMax.
absl::StatusOr<SegmentShape> CutIntoSegments(const ResolvedWeights& weights, LayerId layer, int32_t count);

/// The sum of the sizes of some segments' ranges. CHECKs that there are such segments.
int64_t TotalSize(std::span<const Range> ranges, std::span<const int32_t> segments);

}  // namespace shoal
