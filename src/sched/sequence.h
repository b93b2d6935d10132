// A sequence as the scheduler holds it: its tokens are the durable state, everything else can be rebuilt from
// them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "exec/state_ring.h"
#include "sched/request.h"

namespace shoal {

enum class SequenceState : uint8_t {
  kWaiting,   ///< In the queue: holds no blocks. Fresh, or preempted and to be prefilled again from its
              ///< tokens.
  kRunning,   ///< Holds blocks; may be put into steps.
  kDraining,  ///< Preempted while steps in flight name its blocks; goes back to the queue with the last of
              ///< them.
  kEnded,  ///< Finished, failed or cancelled while steps in flight name its blocks; forgotten with the last
           ///< of them.
};

struct Sequence {
  SeqId id;  ///< Ascends with arrival: the highest id is the youngest.
  GenerationRequest request;
  std::shared_ptr<EventSink> sink;
  Clock::time_point queued_at = Clock::now();

  std::vector<int32_t> tokens;  ///< Prompt, then generated.
  SequenceState state = SequenceState::kWaiting;
  std::vector<BlockId> blocks;
  StateRing states;               ///< Of a model that keeps states.
  int64_t scheduled = 0;          ///< Positions [0, scheduled) are cached, or in a step in flight.
  int steps_in_flight = 0;        ///< Steps in flight that name its blocks.
  bool sample_pending = false;    ///< A step in flight will give its next token.
  bool begun = false;             ///< Its NewSequence was sent since it last got blocks.
  bool known_to_workers = false;  ///< Some step carried its NewSequence: its end must be told.
  bool long_rope = false;         ///< What its slices say, since it last got blocks.
  StepId last_step;

  int64_t generated() const { return static_cast<int64_t>(tokens.size() - request.prompt.size()); }
  /// Positions that have a token but are in no step yet.
  int64_t unscheduled() const { return static_cast<int64_t>(tokens.size()) - scheduled; }
  /// One row a step from here on: all but its last token are cached or in flight.
  bool decoding() const { return sample_pending || unscheduled() == 1; }
};

}  // namespace shoal
