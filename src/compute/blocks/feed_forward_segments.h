// A feed-forward whose segments lie on several nodes (compute/segments.h): what the node that runs the layer does
// with it, and the segments that a node holds.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "compute/blocks/linear.h"
#include "compute/blocks/mlp.h"
#include "compute/expert_exchange.h"
#include "compute/segments.h"
#include "loading/packed_store.h"

namespace shoal {

/// The dense feed-forward as its layer sees it, or the shared expert as its block does: rows in, rows out, whoever computes
/// them.
class SegmentedMlp {
 public:
  SegmentedMlp() = default;
  explicit SegmentedMlp(const SegmentShape& shape) : group_(shape.input_group) {}

  int64_t bytes() const { return 0; }  ///< Segments count elsewhere.
  /// Columns per scale of the codes that it asks of its input; 0: none.
  int input_group(ActivationMode mode) const { return mode == ActivationMode::kInt8 ? group_ : 0; }
  /// y [T, D] = the block of the input [T, D]. Errors as ExpertExchange::feed_forward.
  absl::Status forward(const ComputeContext& context, LayerId layer, LinearInput& input,
                       ExpertExchange& exchange, MatView<float> y) const;

 private:
  int group_ = 0;
};

/// The segments of one layer that a node holds.
class SegmentSet {
 public:
  /// held: ascending numbers below `count`. store: as for WeightLoader. Errors of CutIntoSegments and WeightLoader.
  static absl::StatusOr<SegmentSet> Load(const ResolvedWeights& weights, LayerId layer, int32_t count,
                                         std::span<const int32_t> held, ThreadPool& pool,
                                         PackedStore* store = nullptr);

  const SegmentShape& shape() const { return shape_; }
  /// Of what is held here; with weights that all segments need, where there is one.
  int64_t bytes() const;

  /// The hidden values of `segments`, distinct ones, side by side, for rows [T, D]. `hidden` lies in the context's arena,
  /// where the caller has a scope. FailedPrecondition: a segment that is not held here. InvalidArgument: rows of another
  /// width or format. OutOfRange: a value is not finite.
  absl::Status hidden(const ComputeContext& context, std::span<const int32_t> segments,
                      const SegmentRows& rows, SegmentRows& hidden) const;
  /// y [T, n]: the outputs of `segments` side by side, of all hidden values [T, F]. Errors as hidden().
  absl::Status down(const ComputeContext& context, std::span<const int32_t> segments,
                    const SegmentRows& hidden, MatView<float> y) const;

 private:
  struct Segment {
    Linear gate, up, down;
  };
  absl::StatusOr<const Segment*> find(int32_t segment) const;

  LayerId layer_;
  int64_t model_width_ = 0;
  SegmentShape shape_;
  GatingRule gating_;
  std::vector<std::optional<Segment>> segments_;
};

/// The segments that a node holds, over all layers.
class SegmentBank {
 public:
  static absl::StatusOr<std::unique_ptr<SegmentBank>> Load(const ResolvedWeights& weights,
                                                           const HeldSegments& held, ThreadPool& pool,
                                                           PackedStore* store = nullptr);

  int64_t bytes() const;
  /// Of a layer that has segments, here or elsewhere; nullptr for any other.
  const SegmentSet* find(LayerId layer) const;

 private:
  std::vector<std::optional<SegmentSet>> layers_;
};

}  // namespace shoal
