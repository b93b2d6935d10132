// How the batch planner begins a generation of the engine, and what it wants of the one that has ended.
#include "base/check.h"
#include "sched/batch_planner.h"

namespace shoal {

CacheLedger::Wanted BatchPlanner::wanted() {
  std::vector<const Sequence*> begun;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->state == SequenceState::kWaiting && sequence->started) begun.push_back(sequence.get());
  }
  return caches_.want(begun);
}

void BatchPlanner::reset(const EngineLimits& limits, KeptCaches kept, std::span<const uint64_t> missing) {
  SHOAL_CHECK(running_.empty() && in_flight_.empty());  // The scheduler settles a lost generation first.
  SHOAL_CHECK(CheckLimits(limits).ok());                // And takes no limits that fail it.
  limits_ = limits;
  caches_.renew(limits, kept, missing);
  model_ = PipelineModel(limits.steps_in_flight);
  drafter_.reset(limits);
  pacer_ = PrefillPacer(options_.target_itl, limits.steps_in_flight);
  forget_workers();
}

}  // namespace shoal
