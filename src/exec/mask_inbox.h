// Masks on their way to the steps that sample with them. They come straight from the coordinator and may arrive
// before their step or after it: whoever samples waits here, and the executor goes on serving others meanwhile (I13).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "exec/step.h"
#include "wire/frame.h"

namespace shoal {

/// Used by the executor's thread only.
class MaskInbox {
 public:
  /// Handles one event of the node's inbox, waiting until `deadline` for it: masks come back through on_masks().
  /// DeadlineExceeded if nothing came.
  using Pump = std::function<absl::Status(Deadline deadline)>;

  struct Options {
    int64_t vocabulary = 0;
    Duration timeout = std::chrono::seconds(6);  ///< A step waits no longer for all of its masks.
    int64_t bytes_max = int64_t{256} << 20;      ///< Of masks that wait for their steps; more are dropped.
  };
  MaskInbox(const Options& options, Pump pump);

  /// A kMasks frame. One that is wrong, or of a step that is over, is dropped.
  void on_masks(const Frame& frame);
  /// The link with the coordinator broke: no mask will come.
  void on_lost(const absl::Status& status);

  /// Names the step that follows; masks of earlier ones are forgotten.
  void begin_step(StepId step);

  /// The mask of a sampled row of the step, which is there until the next wait. One that does not come in time has
  /// the status DeadlineExceeded, which ends its sequence alone. An error: no mask can come any more.
  absl::StatusOr<const TokenMask*> wait_for(SeqId id, int64_t position);

  /// Nanoseconds spent in wait_for since begin_step.
  int64_t waited_ns() const { return waited_ns_; }

 private:
  const TokenMask* find(SeqId id, int64_t position) const;

  const Options options_;
  const Pump pump_;
  StepId step_;
  Deadline deadline_;  ///< Of the step's masks: set by its first wait.
  bool waiting_ = false;
  std::map<StepId, std::vector<TokenMask>> masks_;  ///< Of the step and of later ones.
  int64_t bytes_ = 0;
  absl::Status lost_;
  int64_t waited_ns_ = 0;
};

}  // namespace shoal
