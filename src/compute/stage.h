// A stage: the layers [begin, end) of a model on one node, built from a ModelSpec and a Checkpoint. It runs
// rows; it knows no node, no transport and no sampling.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/range.h"
#include "compute/compute_context.h"
#include "compute/stage_step.h"
#include "cpu/arena.h"
#include "cpu/pool.h"
#include "kv/kv_cache.h"
#include "loading/packed_store.h"
#include "loading/resolved_weights.h"
#include "numeric/view.h"

namespace shoal {

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
  /// One per layer of StageOptions::cached_layers, for KvCache::Create.
  virtual std::vector<KvLayerShape> kv_shapes() const = 0;
  /// From now on told, while a layer with experts is asked for a few rows, which experts the next such layer may be asked
  /// for: ids of any rows, some of them more than once. A guess, which costs the time of a router. `arena` is for what
  /// the call needs. Before the first step.
  using ReadAhead = std::function<void(Arena& arena, LayerId layer, std::span<const int32_t> ids)>;
  virtual void set_read_ahead(ReadAhead read_ahead) = 0;
  /// Elements that did not fit the cache's f16 and were stored as +-65504, since loading. Any thread may ask.
  virtual int64_t kv_saturated() const = 0;

  /// x[t, :] = embedding of tokens[t]. x: [T, D]. InvalidArgument names a token outside the vocabulary,
  /// OutOfRange one whose embedding is not finite.
  virtual absl::Status embed(const ComputeContext& context, std::span<const int32_t> tokens,
                             MatView<float> x) = 0;

  /// Runs the layers in place on x [T, D] and appends to the cache, which has the stage's layers. x then holds the rows of the slices that
  /// on_bad_slice was not told of. On an error x, the new cache positions and the slots of state_to are
  /// undefined, all else is unchanged; so they are for a bad slice. FailedPrecondition where a slot to be read
  /// holds no state, or that of another position. OutOfRange: an activation is not finite.
  virtual absl::Status forward(const ComputeContext& context, const StageStep& step, KvCache& cache,
                               MatView<float> x) = 0;

  /// hidden[r, :] = final_norm(x[r, :]), of the last stage. x, hidden: [R, D], not the same. OutOfRange: a value is not
  /// finite.
  virtual absl::Status final_norm(const ComputeContext& context, MatView<const float> x,
                                  MatView<float> hidden) = 0;

  /// logits[r, :] = head(final_norm(x[r, :])). x: [R, D], logits: [R, V]. OutOfRange: an activation is not
  /// finite.
  virtual absl::Status head(const ComputeContext& context, MatView<const float> x, MatView<float> logits) = 0;

  /// The rows of ModelSpec::mtp, of a stage that holds it. x: [T, D], rows as head() takes them, each of which
  /// next[t] follows; x then holds what mtp_head() takes, and the cache has the slices' positions of the layer behind
  /// the last. It calls on_bad_slice and after_layer for nothing. Errors as forward(): x and those positions are then
  /// undefined. InvalidArgument as embed().
  virtual absl::Status mtp_forward(const ComputeContext& context, const StageStep& step,
                                   std::span<const int32_t> next, KvCache& cache, MatView<float> x) = 0;

  /// As head(), with the norm of ModelSpec::mtp: the logits of what follows next[t].
  virtual absl::Status mtp_head(const ComputeContext& context, MatView<const float> x,
                                MatView<float> logits) = 0;
};

}  // namespace shoal
