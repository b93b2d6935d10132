// When the scheduler gives up a request: at its deadline, or where the engine is down for too long.
#include <algorithm>

#include "base/status.h"
#include "sched/scheduler.h"

namespace shoal {

void Scheduler::expire() {
  const Clock::time_point now = Clock::now();
  for (const SeqId id : batch_planner_.live_ids()) {
    const Sequence* sequence = batch_planner_.find(id);
    if (sequence != nullptr) expire_one(*sequence, now);  // Else it ended with another choice of its request.
  }
}

void Scheduler::expire_one(const Sequence& sequence, Clock::time_point now) {
  const bool late = now >= sequence.request.deadline.at;
  if (!engine_up_ && sequence.state == SequenceState::kWaiting && now >= gives_up_at(sequence)) {
    const std::string what =
        sequence.started
            ? fmt::format("the cluster was lost after {} tokens and is not back", sequence.generated())
            : "the cluster is not ready";
    return fail(sequence.request_id, Unavailable("{}{}: {}", what, late ? " by the request's deadline" : "",
                                                 Message(engine_status_)));
  }
  if (!late) return;
  fail(sequence.request_id, DeadlineExceeded("the request's deadline passed after {} of at most {} tokens",
                                             sequence.generated(), sequence.request.max_tokens));
}

// When one that waits for an engine that is down gives up.
Clock::time_point Scheduler::gives_up_at(const Sequence& sequence) const {
  const Clock::time_point deadline = sequence.request.deadline.at;
  if (sequence.started && options_.on_loss == OnLoss::kResume) return deadline;
  return std::min(deadline, std::max(down_since_, sequence.queued_at) + options_.engine_wait);
}

}  // namespace shoal
