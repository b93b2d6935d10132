// The seam between exec and a device that computes: a backend loads what a node holds of a model, the loaded
// model opens sessions with caches of their own, and a session runs steps, computes experts and samples.
//
// Rows, ids and sums cross the seam in host memory of the caller's, which is the backend's until the call
// returns. Weights, caches, logits and scratch stay inside: there is no pointer here that a device could not
// give. Blocks and state slots are known by the coordinator's ids.
// A backend knows no node, no plan and no transport. docs/adding-a-backend.md says what a new one must do.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/expert_tier_stats.h"
#include "base/ids.h"
#include "base/range.h"
#include "compute/activation_mode.h"
#include "compute/expert_exchange.h"
#include "compute/sampling_params.h"
#include "compute/segments.h"
#include "compute/stage_step.h"
#include "compute/token_history.h"
#include "kernels/packed.h"
#include "kv/block_image.h"
#include "loading/packed_cache.h"
#include "loading/resolved_weights.h"
#include "numeric/dtype.h"
#include "numeric/view.h"

namespace shoal {

class StepProfile;

/// What a backend can compute. What lies outside is refused before memory is taken for it.
struct BackendLimits {
  int64_t rows_max = 0;      ///< Rows of one step, or of one call for experts.
  int64_t logit_rows = 0;    ///< Rows whose logits it keeps at once, for sampling.
  int64_t head_dim_max = 0;  ///< Numbers of one head in the cache.
  bool states = false;       ///< Whether it has layers that keep a state (recurrent ones).
  bool picks = false;  ///< Whether it has layers that pick the positions they attend to (sparse attention).
  bool mtp = false;    ///< Whether it has heads for multi-token prediction.
  bool segments = false;  ///< Whether it computes feed-forwards by segments (compute/segments.h).
};

/// Whether a node reads this weight, or part of it, which has such a stage, the routed experts of `experts` ([L],
/// ascending) and these segments. StageOptions::segments does not matter.
bool ReadsWeight(const StageOptions& stage, const std::vector<std::vector<ExpertId>>& experts,
                 const HeldSegments& segments, const WeightUse& use);

/// What a node holds of a model.
struct BackendLoad {
  std::shared_ptr<const ResolvedWeights> weights;
  StageOptions stage;                          ///< No layers: no stage, and neither embedding nor head.
  std::vector<std::vector<ExpertId>> experts;  ///< [L], ascending.
  HeldSegments segments = {};                  ///< Of dense layers; StageOptions::segments has its counts.
  LoadProgress progress;                       ///< May be empty.
  std::shared_ptr<const PackedCache> cache;    ///< Of packed weights; nullptr: none. A backend may ignore it.
  /// Bytes of memory for the routed experts of the model's layers: where they are more, others are read whenever they are
  /// wanted. 0: all are in memory. A backend may ignore it, and then takes what all need.
  int64_t expert_memory = 0;
  /// Another thread may call a session of an earlier model of this backend meanwhile: its steps come first.
  bool beside_session = false;
  /// Asked now and then, from any thread: whether load() is to end with Cancelled. May be empty.
  std::function<bool()> cancelled;

  /// Whether this weight is one of them.
  bool reads(const WeightUse& use) const { return ReadsWeight(stage, experts, segments, use); }
};

/// What a session keeps.
struct BackendSessionOptions {
  int blocks = 0;       ///< KV blocks of each layer held.
  int state_slots = 0;  ///< States of sequences; 0: the model keeps none.
  DType kv_dtype = DType::kF16;
  ActivationMode activations = ActivationMode::kInt8;
  int64_t rows_max = 0;            ///< Of the steps to come.
  StepProfile* profile = nullptr;  ///< Where time is charged; nullptr: nowhere. Outlives the session.
};

/// What a session leaves of its cache, for the next one of the same node: of the same weights, dtype and activations.
/// Only the backend that made it looks into it.
class BackendCache {
 public:
  virtual ~BackendCache() = default;
  virtual bool has(LayerId layer) const = 0;
  /// Gives back blocks and state slots behind so many.
  virtual void trim(int blocks, int state_slots) = 0;
  /// As ExportImage() of a layer that it has; nothing is appended where the layer has no such kind of place.
  /// FailedPrecondition: there is no such place, or the slot holds another state. Unimplemented: this backend does not
  /// give its caches away.
  virtual absl::Status export_image(LayerId layer, const CachePlace& place, const ImageId& id,
                                    std::vector<std::byte>& out) const;
};

/// A cache and what steps need besides. One thread at a time calls it. That thread may call holds(),
/// run_experts(), run_expert(), run_hidden(), run_down(), add_sums() and import_cached() in the middle of forward(), too, from before_layer
/// or from the exchange, and between head() and sample() or score(): others' requests are served while own rows
/// are out, or their masks are awaited (I13), and blocks that the step does not name come from the disk.
class BackendSession {
 public:
  virtual ~BackendSession() = default;

  /// As Stage::embed. x: [T, D].
  virtual absl::Status embed(std::span<const int32_t> tokens, MatView<float> x) = 0;
  /// As Stage::forward, on the session's own cache. x: [T, D], in and out.
  virtual absl::Status forward(const StageStep& step, MatView<float> x) = 0;

  /// Makes the logits of x [R, D] by the final norm and the output head, as rows [first, first + R) of those
  /// that are kept here for sample(), at most BackendLimits::logit_rows. Errors as Stage::head.
  virtual absl::Status head(MatView<const float> x, int64_t first) = 0;
  /// SampleToken on row `row` of the logits kept, which are used up.
  virtual absl::StatusOr<SampledToken> sample(int64_t row, const TokenDraw& draw) = 0;
  /// ScoreToken on row `row` of the logits kept, which stay as they are.
  virtual absl::StatusOr<SampledToken> score(int64_t row, const TokenScore& asked) = 0;
  /// The final norm of x [R, D], whose rows are what the output head reads, to the host. hidden: [R, D].
  /// OutOfRange: a value is not finite.
  virtual absl::Status read_hidden(MatView<const float> x, MatView<float> hidden) = 0;
  /// The logits of x [R, D] to the host, [R, V]. Errors as Stage::head.
  virtual absl::Status read_logits(MatView<const float> x, MatView<float> logits) = 0;

  /// As Stage::mtp_forward, on the session's own cache and experts. Unimplemented: BackendLimits::mtp is false.
  virtual absl::Status mtp_forward(const StageStep& step, std::span<const int32_t> next, MatView<float> x);
  /// As head(), with Stage::mtp_head.
  virtual absl::Status mtp_head(MatView<const float> x, int64_t first);

  /// Whether an expert is held here.
  virtual bool holds(LayerId layer, ExpertId expert) const = 0;
  /// Calls of run_experts() with these experts will follow, at once or after others' requests: those that are not in
  /// memory may be read meanwhile. Changes no result.
  virtual void expect_experts(LayerId /*layer*/, std::span<const ExpertCall> /*calls*/) {}
  /// As ExpertBank::run. rows: [R, D]; acc: [R, D] fixed point, added to.
  virtual absl::Status run_experts(LayerId layer, const ExpertRows& rows, std::span<const ExpertCall> calls,
                                   MatView<int64_t> acc) = 0;
  /// As ExpertBank::run_one: one expert on all rows, unweighted. rows, y: [R, D].
  virtual absl::Status run_expert(LayerId layer, ExpertId expert, const ExpertRows& rows,
                                  MatView<float> y) = 0;
  /// y += acc * 2^-40, each rounded once (numeric/fixed_sum.h). acc, y: [R, D].
  virtual void add_sums(MatView<const int64_t> acc, MatView<float> y) = 0;

  /// How the feed-forward of a layer is cut; nullptr: it has no segments.
  virtual const SegmentShape* segment_shape(LayerId /*layer*/) const { return nullptr; }
  /// As SegmentSet::hidden. `hidden` is valid until the next call of the session. Unimplemented: BackendLimits::segments is
  /// false.
  virtual absl::Status run_hidden(LayerId layer, std::span<const int32_t> segments, const SegmentRows& rows,
                                  SegmentRows& hidden);
  /// As SegmentSet::down. Unimplemented likewise.
  virtual absl::Status run_down(LayerId layer, std::span<const int32_t> segments, const SegmentRows& hidden,
                                MatView<float> y);

  /// As ExportImages, of the session's own cache; appends nothing where no layers are held. Unimplemented: this
  /// backend does not give its caches away.
  virtual absl::Status export_cached(const CachePlace& place, const ImageId& id, std::vector<std::byte>& out);
  /// As ImportImages. Unimplemented as export_cached().
  virtual absl::Status import_cached(const CachePlace& place, const ImageId& id,
                                     std::span<const std::byte> images);

  /// The cache; the session runs no step any more. nullptr: it has none, or this backend does not give it away.
  virtual std::unique_ptr<BackendCache> release_cache() { return nullptr; }
  /// Goes on with what a cache of this backend's holds, as KvCache::take_over(), before the first step. Returns the
  /// layers of which it does.
  virtual std::vector<LayerId> adopt_cache(BackendCache& /*cache*/) { return {}; }
  /// As ImportImage(), of a layer held here, before the first step. FailedPrecondition: there is no such layer or
  /// place, or the image is of another kind. Unimplemented as export_cached().
  virtual absl::StatusOr<int64_t> import_image(LayerId layer, const CachePlace& place, const ImageId& id,
                                               std::span<const std::byte> image);
  /// Behind how many tokens the state in a slot is, of which images of all layers were taken in.
  virtual void set_state_position(SlotId /*slot*/, int32_t /*position*/) {}

  /// Elements that did not fit the cache's f16 and were stored as +-65504, since the model was loaded.
  virtual int64_t kv_saturated() const = 0;
  /// Bytes of scratch held: steps of one kind stop adding to them (I6).
  virtual int64_t scratch_bytes() const = 0;
};

/// The weights that a node holds, in the backend's memory.
class BackendModel {
 public:
  virtual ~BackendModel() = default;

  virtual const ModelSpec& spec() const = 0;
  /// Bytes of weights in memory, packed.
  virtual int64_t bytes() const = 0;
  /// (layer, expert) pairs held.
  virtual int64_t expert_count() const = 0;
  /// Where some experts are not in memory: how that goes. From any thread.
  virtual std::optional<ExpertTierStats> expert_tier() const { return std::nullopt; }
  /// Whether all matrices came from the packed cache, and the bytes of those that did.
  virtual bool from_cache() const = 0;
  virtual int64_t cached_bytes() const = 0;
  /// Waits until the weights are in the packed cache. A model that goes before that leaves nothing there.
  virtual void finish_saving() = 0;

  /// Takes memory for the cache. The model and its backend must outlive the session. ResourceExhausted where
  /// it does not fit; InvalidArgument: options outside the backend's limits.
  virtual absl::StatusOr<std::unique_ptr<BackendSession>> open(const BackendSessionOptions& options) = 0;
};

/// A device, with the threads and kernels that drive it. One thread loads, and one calls a session, at a time.
class Backend {
 public:
  virtual ~Backend() = default;

  /// The name of the arithmetic: backends that give the same bits, always, have the same class, and others
  /// never do. Nodes of different classes refuse one another in the handshake. "shoal-cpu/2"
  virtual std::string numerics_class() const = 0;
  virtual BackendLimits limits() const = 0;
  /// Whether it multiplies matrices of this format.
  virtual bool takes(const PackedFormat& format) const = 0;

  /// Moves while a session computes, within a layer, too: a node whose layer takes long is told from one that hangs by
  /// it. Safe from any thread. 0 for ever: a layer of the backend that takes longer than --liveness-timeout is a hang.
  virtual uint64_t progress() const { return 0; }

  /// To be called by each thread that is going to load or to call a session: it may be pinned.
  virtual void enter_thread() {}

  /// Reads and places the weights of a node's shard, which passes CheckTaken. Errors name file, tensor,
  /// expected and got; the packed cache causes none. Cancelled: BackendLoad::cancelled said so.
  virtual absl::StatusOr<std::unique_ptr<BackendModel>> load(const BackendLoad& load) = 0;
};

/// That `backend` can compute what `load` asks for. Unimplemented names layer or tensor, and what it takes.
absl::Status CheckTaken(const Backend& backend, const BackendLoad& load);

/// That options are within the limits. InvalidArgument.
absl::Status CheckOptions(const Backend& backend, const BackendSessionOptions& options);

}  // namespace shoal
