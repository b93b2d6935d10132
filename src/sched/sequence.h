// A sequence as the scheduler holds it: its tokens are the durable state, everything else can be rebuilt from
// them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "exec/sequence_cursor.h"
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
  RequestId request_id;
  int choice = 0;  ///< Its index among the sequences of the request.
  GenerationRequest request;
  std::shared_ptr<EventSink> sink;
  Clock::time_point queued_at = Clock::now();

  std::vector<int32_t> tokens;  ///< Prompt, then generated.
  SequenceState state = SequenceState::kWaiting;
  SequenceCursor cursor;          ///< Its blocks and slots, and how far it is cached or in a step in flight.
  int steps_in_flight = 0;        ///< Steps in flight that name its blocks.
  bool sample_pending = false;    ///< A step in flight will give its next token.
  bool begun = false;             ///< Its NewSequence was sent since it last got blocks.
  bool known_to_workers = false;  ///< Some step carried its NewSequence: its end must be told.
  bool started = false;           ///< Got blocks at some time: a lost engine is waited for (OnLoss::kResume).
  bool announced = false;         ///< Its sink was told that it begins.
  int losses_in_a_row = 0;        ///< Engines lost with it in the oldest step, since its last token.
  StepId last_step;

  int64_t generated() const { return std::ssize(tokens) - std::ssize(request.prompt); }
  /// Positions that have a token but are in no step yet.
  int64_t unscheduled() const { return std::ssize(tokens) - cursor.position(); }
  /// One row a step from here on: all but its last token are cached or in flight.
  bool decoding() const { return sample_pending || unscheduled() == 1; }
};

}  // namespace shoal
