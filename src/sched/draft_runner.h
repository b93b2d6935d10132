// Runs the steps of a draft model: the planner composes them, a second engine computes them. What goes wrong there costs
// drafts and nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "exec/engine.h"
#include "sched/batch_planner.h"

namespace shoal {

/// All but its constructor is called from the scheduler's thread.
class DraftRunner {
 public:
  /// engine: nullptr where there is no draft model; else it must outlive the runner, which takes its state listener.
  /// step_timeout: after which a step hangs. wake: has receive() called soon; from any thread, also after the runner is
  /// gone.
  DraftRunner(Engine* engine, Duration step_timeout, BatchPlanner& planner, std::function<void()> wake);
  ~DraftRunner();

  /// Takes in what the engine has done since.
  void receive();
  /// Submits what the planner has to do for it.
  void submit();

 private:
  struct Inbox;

  void refresh();
  void lose(const absl::Status& why);
  void take(absl::StatusOr<StepResult> result);

  Engine* const engine_;
  const Duration step_timeout_;
  BatchPlanner& planner_;
  const std::function<void()> wake_;
  const std::shared_ptr<Inbox> inbox_;
  std::optional<uint64_t> generation_;  ///< The last that was seen.
  bool up_ = false;                     ///< It is in use.
  /// The step in flight, of this generation.
  struct InFlight {
    int64_t rows = 0;
    int64_t at_ns = 0;
    Deadline deadline;
  };
  std::optional<InFlight> in_flight_;
};

}  // namespace shoal
