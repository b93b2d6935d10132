// What the scheduler sees of the cluster: steps go in, results come out in step order, and a lost peer is a
// Status. A cluster that was rebuilt is another generation of the same engine.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "exec/kv_report.h"
#include "exec/step.h"
#include "kv/block_image.h"
#include "kv/block_key.h"
#include "plan/cost.h"

namespace shoal {

/// What a generation of the engine can do.
struct EngineLimits {
  int blocks = 0;           ///< KV blocks on every node.
  int64_t context = 0;      ///< Longest sequence of the model, positions.
  int steps_in_flight = 1;  ///< Steps worth submitting before the first result (stages of the plan).
  int vocabulary = 0;
  /// Sequences longer than this are to be told as such (SeqSlice::long_rope). One that grows beyond it is
  /// prefilled again: it goes on with the bits of a prompt of its length.
  int64_t short_rope_positions = std::numeric_limits<int64_t>::max();
  int state_slots = 0;  ///< States on every node; 0: the model keeps none.
  /// CachesKey of the model and of what else decides the bits in its caches.
  BlockKey caches;
  /// VisiblePositions: blocks that lie wholly behind are not read any more.
  int64_t window = std::numeric_limits<int64_t>::max();
  bool mtp = false;     ///< Slices may ask for a draft (SeqSlice::draft).
  bool copies = false;  ///< A stage has a buddy: steps are to order copies (Step::copies).

  bool long_rope(int64_t positions) const { return positions > short_rope_positions; }

  /// Slots that a sequence needs.
  int state_slots_each() const {
    return state_slots == 0 ? 0 : static_cast<int>(StateSlotsPerSequence(steps_in_flight));
  }
};

/// Called once per submitted step: from the engine's own thread, in step order, with its result or, when the
/// cluster is lost, with the error that all its steps get; from within submit() where the step is refused.
/// Steps of a lost generation may still end when the next has begun. Must not block.
using StepDone = std::function<void(absl::StatusOr<StepResult>)>;

/// Told what a stage of `generation` keeps on disk, from the engine's own thread. Must not block.
using KvListener = std::function<void(uint64_t generation, NodeId node, KvReport report)>;

/// What of the caches that a generation left the next one begins with.
enum class KeptCaches : uint8_t {
  kNone,    ///< They are empty.
  kWanted,  ///< What was wanted (Engine::want_caches), as far as there are as many blocks and slots.
  kAll,     ///< All blocks and states, as far as there are as many.
};

class Engine {
 public:
  virtual ~Engine() = default;

  /// All of it belongs together: read once, it stays true of its generation.
  struct State {
    /// OK when steps can be submitted; otherwise why not (a node is away: Unavailable naming it).
    absl::Status status;
    /// 0 before the cluster was first up; one more whenever it was rebuilt.
    uint64_t generation = 0;
    EngineLimits limits;  ///< Of this generation; zeros before the first.
    /// What of the caches all nodes began the generation with. What a step that did not come back was to write may be
    /// there or not.
    KeptCaches keeps_caches = KeptCaches::kNone;
    /// With kWanted: entries of the wanted places (CachedPlace::entry) that a node lacks, ascending; nullptr: none.
    std::shared_ptr<const std::vector<uint64_t>> missing = nullptr;
    /// One more, within a generation, whenever a node was given another buddy: all that is cached is to be copied again.
    uint64_t copy_rounds = 0;
  };
  virtual State state() const = 0;

  /// Queues a step of `generation`; step ids must ascend by one from 1 within a generation. Never blocks on a
  /// peer. The result, or the error that ended it, comes through `done`. A failed step fails all later ones
  /// (I12). Refused through `done`, without any effect: with the state's status while that is not OK;
  /// Unavailable if `generation` is no longer the one that is up (it may have ended since the caller looked);
  /// FailedPrecondition for a step id that is not due.
  virtual void submit(uint64_t generation, Step step, StepDone done) = 0;

  /// Masks that slices of a submitted step wait for (SeqSlice::masked), in any number of calls from any thread; each
  /// of those rows needs one. Never blocks on a peer. Without any effect where the step has ended, or is not of the
  /// generation that is up.
  virtual void send_masks(uint64_t generation, StepId step, std::span<const TokenMask> masks) = 0;

  /// `generation` can't be trusted any more: ends it with `why` (not OK), as if a node were lost. Nothing
  /// happens if it has ended already.
  virtual void give_up(uint64_t generation, const absl::Status& why) = 0;

  /// Called (from the engine's thread) whenever state() changed. Set before the first submit.
  virtual void set_state_listener(std::function<void()> listener) = 0;

  /// `generation` has ended: these of its blocks and states, with all that they follow, are worth going with their
  /// layers to other nodes, if it takes no longer than `worth`. An engine whose layers stay where they are ignores it.
  virtual void want_caches(uint64_t /*generation*/, std::vector<CachedPlace> /*places*/, Duration /*worth*/) {
  }

  /// Set before the first submit. Stages are asked now and when a generation begins, and then tell of changes. An
  /// engine whose stages keep nothing on disk tells nothing.
  virtual void set_kv_listener(KvListener /*listener*/) {}
};

}  // namespace shoal
