// The routed experts of one layer that a node holds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "compute/blocks/mlp.h"
#include "compute/compute_context.h"
#include "compute/expert_exchange.h"
#include "formats/checkpoint.h"
#include "models/spec.h"

namespace shoal {

/// Columns per scale in which rows go to a layer's experts under `mode`: 0 where they go as f32. All gate and
/// up projections of a layer must agree, as a row is quantized once for all its experts, wherever they are;
/// InvalidArgument names the expert that does not.
absl::StatusOr<int> ExpertInputGroup(const WeightLoader& loader, const MoeSpec& moe, ActivationMode mode);

class ExpertSet {
 public:
  /// Reads and packs `experts` of `layer`, in any order, each once. InvalidArgument for a layer without
  /// experts, an expert that it does not have, or one named twice; else the errors of reading. store: as for
  /// WeightLoader.
  static absl::StatusOr<ExpertSet> Load(const ResolvedWeights& weights, LayerId layer,
                                        std::span<const ExpertId> experts, ThreadPool& pool,
                                        PackedStore* store = nullptr);

  /// The same without weights in memory: place() says where those of an expert are before it runs.
  static absl::StatusOr<ExpertSet> LoadWithoutWeights(const ResolvedWeights& weights, LayerId layer,
                                                      std::span<const ExpertId> experts);
  /// As Mlp::place(), of an expert held here (CHECKed).
  void place(ExpertId expert, const std::shared_ptr<std::byte>& memory,
             const std::array<int64_t, 3>& offsets);

  LayerId layer() const { return layer_; }
  bool holds(ExpertId expert) const { return slot(expert) >= 0; }
  /// Ascending.
  const std::vector<ExpertId>& experts() const { return ids_; }
  /// Packed bytes.
  int64_t bytes() const;
  /// D, of rows in and out.
  int64_t width() const { return width_; }
  /// As ExpertInputGroup.
  int input_group(ActivationMode mode) const { return mode == ActivationMode::kInt8 ? group_ : 0; }

  /// y[r, :] = down(silu(gate x[r, :]) * up x[r, :]) by one expert held here (CHECKed).
  /// rows: [R, D]. Where input_group() is not 0 the codes are used if given (of that group), and else made
  /// from x; only then may x be without data. y: [R, D], must not alias x. OutOfRange for a non-finite
  /// activation.
  absl::Status forward(const ComputeContext& context, ExpertId expert, const ExpertRows& rows,
                       MatView<float> y) const;

  /// The same for several experts at once: range.rows of `rows` and of y by range.expert. The ranges are
  /// disjoint.
  struct ExpertRange {
    ExpertId expert;
    Range rows;
  };
  absl::Status forward(const ComputeContext& context, std::span<const ExpertRange> ranges,
                       const ExpertRows& rows, MatView<float> y) const;

 private:
  /// All but weights. specs: of the experts, as ids_.
  absl::Status prepare(const ResolvedWeights& weights, LayerId layer, std::span<const ExpertId> experts,
                       std::vector<const DenseSpec*>& specs);
  int64_t slot(ExpertId expert) const;

  LayerId layer_;
  int64_t width_ = 0;
  int group_ = 0;  // Of int8 rows; 0 where the weights are floats.
  std::vector<ExpertId> ids_;
  std::vector<Mlp> mlps_;  // As ids_.
};

}  // namespace shoal
