// The experts that one node holds, over all layers: rows and expert ids in, order-free sums out. It routes
// nothing and knows no peer. The same bank serves this node's own steps, other nodes' requests and the JSON
// expert API.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/expert_tier_stats.h"
#include "base/ids.h"
#include "compute/blocks/experts.h"
#include "compute/expert_exchange.h"
#include "compute/expert_tier.h"
#include "compute/stage.h"
#include "formats/checkpoint.h"
#include "loading/expert_files.h"
#include "models/spec.h"

namespace shoal {

class ExpertBank {
 public:
  /// held: per layer of the model (size L, or one more: that of multi-token prediction), the expert ids held here,
  /// ascending; empty lists are fine.
  /// store: as for WeightLoader. Errors name file, tensor, expected and got.
  static absl::StatusOr<std::unique_ptr<ExpertBank>> Load(const ResolvedWeights& weights,
                                                          const std::vector<std::vector<ExpertId>>& held,
                                                          ThreadPool& pool, const LoadProgress& progress,
                                                          PackedStore* store = nullptr);

  /// What a bank needs to hold part of its experts in memory, and to read the others when they are wanted.
  struct Tier {
    int64_t memory_bytes = 0;  ///< For experts of the model's layers; those of multi-token prediction stay.
    std::shared_ptr<const PackedCache> cache;  ///< As for ExpertFiles.
    int64_t kept_bytes = 0;
    std::function<bool()> cancelled;
  };
  /// The same with experts in a tier. InvalidArgument: it is less than one expert. Cancelled.
  static absl::StatusOr<std::unique_ptr<ExpertBank>> LoadTiered(
      const ResolvedWeights& weights, const std::vector<std::vector<ExpertId>>& held, const Tier& tier,
      ThreadPool& pool, const LoadProgress& progress, PackedStore* store = nullptr);

  /// After a load by other threads than those that will serve, before the first step: experts are read as for a team of
  /// so many threads, at the calling thread's priority. ResourceExhausted: there is no thread.
  absl::Status begin_serving(int threads);

  bool holds(LayerId layer, ExpertId expert) const;
  /// (layer, expert) pairs held.
  int64_t count() const;
  /// Packed bytes in memory.
  int64_t bytes() const;
  /// Nothing where all experts are in memory.
  std::optional<ExpertTierStats> tier_stats() const;
  bool tiered() const { return tier_ != nullptr; }
  /// That run() comes for these calls, or for some with these experts: reads begin. Nothing where all are in memory.
  void expect(Arena& arena, LayerId layer, std::span<const ExpertCall> calls) const;
  /// That a later step of the node may want these experts, of which the layer may hold some: ids of any number of rows.
  void read_ahead(Arena& arena, LayerId layer, std::span<const int32_t> ids) const;
  /// Columns per scale in which rows go to the experts of a layer; 0: as f32, or nothing is held there.
  int input_group(LayerId layer, ActivationMode activations) const;

  /// acc[call.row, :] += fixed(call.weight * expert(call.expert)(rows[call.row, :])) for every call.
  /// rows: [R, D]; acc: [R, D] fixed point (numeric/fixed_sum.h). Scratch comes from the context's arena.
  /// FailedPrecondition: an expert that is not held here. InvalidArgument: rows of another format than
  /// input_group(). OutOfRange: a value left the fixed-point range or is not a number; names layer and
  /// expert. Of a tier also DataLoss and DeadlineExceeded, as ExpertFiles::read() and ExpertTier::with().
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

  /// run() on experts that are in memory. sorted: by expert.
  absl::Status run_here(const ComputeContext& context, LayerId layer, const ExpertRows& rows,
                        std::span<const ExpertCall> sorted, MatView<int64_t> acc) const;
  absl::Status run_tiered(const ComputeContext& context, LayerId layer, const ExpertRows& rows,
                          std::span<const ExpertCall> sorted, MatView<int64_t> acc) const;
  absl::Status open_tier(const Tier& tier, int readers);
  bool is_tiered(LayerId layer) const {
    return tier_ != nullptr && layer.value < static_cast<int32_t>(tiered_layers_);
  }
  /// Numbers of the experts of this list that are held, each once.
  std::span<const int64_t> numbers_of(Arena& arena, LayerId layer, std::span<const int32_t> ids) const;

  std::vector<std::optional<ExpertSet>> layers_;  ///< Without a value where nothing is held.
  int64_t width_ = 0;
  size_t tiered_layers_ = 0;            ///< Those of the model.
  std::unique_ptr<ExpertFiles> files_;  ///< nullptr: all experts are in memory.
  std::unique_ptr<ExpertTier> tier_;    ///< Goes first: its threads use all of the above.
};

/// Copies rows `picked` of `from` into arena memory, codes and scales too where they are quantized.
ExpertRows GatherRows(Arena& arena, const ExpertRows& from, std::span<const int32_t> picked,
                      QuantizedRows& storage);

}  // namespace shoal
