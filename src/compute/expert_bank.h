// The experts that one node holds, over all layers: rows and expert ids in, order-free sums out. It routes
// nothing and knows no peer. The same bank serves this node's own steps, other nodes' requests and the JSON
// expert API.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "compute/blocks/experts.h"
#include "compute/expert_exchange.h"
#include "compute/stage.h"
#include "formats/checkpoint.h"
#include "models/spec.h"

namespace shoal {

/// All routed experts of a layer; none where it has none.
std::vector<ExpertId> AllExperts(const LayerSpec& layer);

class ExpertBank {
 public:
  /// held: per layer of the model (size L, or one more: that of multi-token prediction), the expert ids held here,
  /// ascending; empty lists are fine.
  /// store: as for WeightLoader. Errors name file, tensor, expected and got.
  static absl::StatusOr<std::unique_ptr<ExpertBank>> Load(const ResolvedWeights& weights,
                                                          const std::vector<std::vector<ExpertId>>& held,
                                                          ThreadPool& pool, const LoadProgress& progress,
                                                          PackedStore* store = nullptr);

  bool holds(LayerId layer, ExpertId expert) const;
  /// (layer, expert) pairs held.
  int64_t count() const;
  /// Packed bytes.
  int64_t bytes() const;
  /// Columns per scale in which rows go to the experts of a layer; 0: as f32, or nothing is held there.
  int input_group(LayerId layer, ActivationMode activations) const;

  /// acc[call.row, :] += fixed(call.weight * expert(call.expert)(rows[call.row, :])) for every call.
  /// rows: [R, D]; acc: [R, D] fixed point (numeric/fixed_sum.h). Scratch comes from the context's arena.
  /// FailedPrecondition: an expert that is not held here. InvalidArgument: rows of another format than
  /// input_group(). OutOfRange: a value left the fixed-point range or is not a number; names layer and
  /// expert.
  absl::Status run(const ComputeContext& context, LayerId layer, const ExpertRows& rows,
                   std::span<const ExpertCall> calls, MatView<int64_t> acc) const;

  /// y[i, :] = expert(x[i, :]), unweighted, for the JSON expert API. x, y: [R, D].
  absl::Status run_one(const ComputeContext& context, LayerId layer, ExpertId expert, const ExpertRows& rows,
                       MatView<float> y) const;

 private:
  ExpertBank() = default;
  /// That `expert` can take `rows`.
  absl::Status check(const ComputeContext& context, LayerId layer, ExpertId expert,
                     const ExpertRows& rows) const;

  std::vector<std::optional<ExpertSet>> layers_;  ///< Without a value where nothing is held.
  int64_t width_ = 0;
};

/// Copies rows `picked` of `from` into arena memory, codes and scales too where they are quantized.
ExpertRows GatherRows(Arena& arena, const ExpertRows& from, std::span<const int32_t> picked,
                      QuantizedRows& storage);

}  // namespace shoal
