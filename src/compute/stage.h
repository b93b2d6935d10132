// A stage: the layers [begin, end) of a model on one node, built from a ModelSpec and a Checkpoint. It runs
// rows; it knows no node, no transport and no sampling.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/range.h"
#include "compute/compute_context.h"
#include "compute/expert_exchange.h"
#include "cpu/pool.h"
#include "kv/kv_cache.h"
#include "loading/packed_store.h"
#include "loading/resolved_weights.h"
#include "numeric/view.h"

namespace shoal {

/// Consecutive positions of one sequence within a step.
struct StepSlice {
  int64_t row_begin = 0;            ///< First row in x.
  int64_t rows = 0;                 ///< Number of rows (tokens).
  int64_t position = 0;             ///< Absolute position of the first row.
  std::span<const BlockId> blocks;  ///< Block table: blocks[p / 32] holds position p; covers position + rows.
  bool long_rope = false;           ///< Of a sequence beyond ShortRopePositions: all its slices say so.
  /// Of models with states: the slot that holds the state behind `position` tokens (kNoState at position 0),
  /// and where states go while the rows pass, ascending, the last one behind all of them. A step writes to no
  /// slot that it reads: after a failed one, and from every snapshot that is left alone, rows can be run
  /// again.
  SlotId state_from = kNoState;
  std::span<const StateWrite> state_to;
};

/// Sees rows x [T, D] as they leave a layer; layer -1: the embedding.
using LayerHook = std::function<void(LayerId, MatView<const float>)>;

/// What a step asks of a stage beyond the rows.
struct StageStep {
  /// A slice, by its index in `slices`, and the OutOfRange that says where it stopped being finite.
  using OnBadSlice = std::function<void(size_t slice, const absl::Status& why)>;

  std::span<const StepSlice> slices;  ///< Tile [0, T) in order.
  KvCache* cache = nullptr;
  ExpertExchange* experts = nullptr;
  /// Called before each layer (progress of the data plane; cancellation by returning an error). May be empty.
  std::function<absl::Status(LayerId)> before_layer;
  /// Called with each MoE layer's choice, ids [T, K]. May be empty.
  std::function<void(LayerId, const Routing&)> on_routing;
  LayerHook after_layer;  ///< May be empty.
  /// Told of each slice in which an activation is not finite or leaves its range. Its rows leave x, those behind
  /// them move up, and the others go on with the bits that they have without it. Empty: the call fails instead.
  OnBadSlice on_bad_slice;
};

struct StageOptions {
  Range layers;
  bool embed = false;  ///< Holds the embedding table (first stage).
  bool head = false;   ///< Holds the final norm and the output head (last stage).
};

/// done and total are bytes of source tensors.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

class Stage {
 public:
  /// Reads and packs the stage's own tensors (experts excluded: they are ExpertSets', blocks/experts.h).
  /// store: as for WeightLoader. Errors name file, tensor, expected and got.
  static absl::StatusOr<std::unique_ptr<Stage>> Load(const ResolvedWeights& weights,
                                                     const StageOptions& options, ThreadPool& pool,
                                                     const LoadProgress& progress,
                                                     PackedStore* store = nullptr);
  virtual ~Stage() = default;

  virtual const StageOptions& options() const = 0;
  /// Packed bytes held.
  virtual int64_t bytes() const = 0;
  /// One per layer held, for KvCache::Create.
  virtual std::vector<KvLayerShape> kv_shapes() const = 0;
  /// Elements that did not fit the cache's f16 and were stored as +-65504, since loading. Any thread may ask.
  virtual int64_t kv_saturated() const = 0;

  /// x[t, :] = embedding of tokens[t]. x: [T, D]. InvalidArgument names a token outside the vocabulary,
  /// OutOfRange one whose embedding is not finite.
  virtual absl::Status embed(const ComputeContext& context, std::span<const int32_t> tokens,
                             MatView<float> x) = 0;

  /// Runs the layers in place on x [T, D] and appends to the cache. x then holds the rows of the slices that
  /// on_bad_slice was not told of. On an error x, the new cache positions and the slots of state_to are
  /// undefined, all else is unchanged; so they are for a bad slice. FailedPrecondition where a slot to be read
  /// holds no state, or that of another position. OutOfRange: an activation is not finite.
  virtual absl::Status forward(const ComputeContext& context, const StageStep& step, MatView<float> x) = 0;

  /// logits[r, :] = head(final_norm(x[r, :])). x: [R, D], logits: [R, V]. OutOfRange: an activation is not
  /// finite.
  virtual absl::Status head(const ComputeContext& context, MatView<const float> x, MatView<float> logits) = 0;
};

}  // namespace shoal
