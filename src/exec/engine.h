// What the scheduler sees of the cluster: steps go in, results come out in step order, and a lost peer is a
// Status.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "exec/step.h"
#include "plan/cost.h"

namespace shoal {

/// What the scheduler may count on while the engine is up.
struct EngineLimits {
  int blocks = 0;           ///< KV blocks on every node.
  int64_t context = 0;      ///< Longest sequence of the model, positions.
  int steps_in_flight = 1;  ///< Steps worth submitting before the first result (stages of the plan).
  int vocabulary = 0;
  /// Sequences longer than this are to be told as such (SeqSlice::long_rope). One that grows beyond it is
  /// prefilled again: it goes on with the bits of a prompt of its length.
  int64_t short_rope_positions = std::numeric_limits<int64_t>::max();
  int state_slots = 0;  ///< States on every node; 0: the model keeps none.

  bool long_rope(int64_t positions) const { return positions > short_rope_positions; }

  /// Slots that a sequence needs.
  int state_slots_each() const {
    return state_slots == 0 ? 0 : static_cast<int>(StateSlotsPerSequence(steps_in_flight));
  }
};

/// Called from the engine's own thread, once per submitted step, in step order; or, when the cluster is lost,
/// once per step with the same error. Must not block.
using StepDone = std::function<void(absl::StatusOr<StepResult>)>;

class Engine {
 public:
  virtual ~Engine() = default;

  /// OK when steps can be submitted; otherwise why not (a node is away: Unavailable naming it). `generation`
  /// changes whenever the cluster was rebuilt: all caches are then empty.
  struct State {
    absl::Status status;
    uint64_t generation = 0;
  };
  virtual State state() const = 0;
  /// Valid while state() is OK.
  virtual EngineLimits limits() const = 0;

  /// Queues a step; step ids must ascend by one from 1 within a generation. Never blocks on a peer. The
  /// result, or the error that ended it, comes through `done`. A failed step fails all later ones (I12).
  /// Submitting while state() is not OK gives that status through `done`.
  virtual void submit(Step step, StepDone done) = 0;

  /// Called (from the engine's thread) whenever state() changed. Set before the first submit.
  virtual void set_state_listener(std::function<void()> listener) = 0;
};

}  // namespace shoal
