// A sequence as the scheduler holds it: its tokens are the durable state, everything else can be rebuilt from
// them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "exec/sequence_cursor.h"
#include "kv/block_key.h"
#include "sched/draft_policy.h"
#include "sched/prefix_cache.h"
#include "sched/prompt_lookup.h"
#include "sched/request.h"
#include "sched/sequence_masks.h"

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

/// What the cache ledger remembers of a sequence while it has room in the caches.
struct CacheStanding {
  int64_t written = 0;        ///< Positions whose steps have come back: they are in the caches.
  PrefixPlace shared;         ///< Behind those of its blocks that are in the prefix cache,
  int64_t shared_blocks = 0;  ///< which are the first so many.
  /// No further block goes there: it failed, has the key of another, or gave blocks back behind its windows.
  bool closed = false;
  /// Of its first so many blocks those that are not in the prefix cache are given back.
  int64_t given_back = 0;
  /// Equal blocks of its own that it no longer uses; steps in flight may still name them.
  std::vector<BlockId> replaced;
  /// Keys of blocks that it is going to write, for which others wait.
  std::vector<BlockKey> promised;
  int64_t promised_from = 0;  ///< Index of the block of promised[0].
  /// Blocks behind its cursor that the stages restore from their disks: until they have, it is in no step.
  int64_t restoring = 0;

  std::vector<int64_t> snapshots_due;     ///< Positions behind which the state is to be kept.
  std::vector<StateWrite> snapshots;      ///< On their way to the prefix cache; it owns the slots.
  std::vector<StateWrite> read_from;      ///< Slots not of its ring that it reads behind these positions.
  std::optional<PrefixPlace> last_state;  ///< Where its state was kept last while it decoded.
  /// Rows before its last token that its next step computes again: tokens that were accepted as drafted, the state
  /// behind which was not kept.
  int64_t again = 0;
};

/// What a sequence waits for in the queue.
struct AwaitedPrefix {
  std::optional<BlockKey> key;  ///< A block that another is going to write.
  int waits = 0;                ///< How often it has waited since it last ran.
};

/// What the drafter remembers of a sequence, preempted or not.
struct SequenceDrafts {
  PromptLookup lookup;
  DraftRates rates;
  DraftTotals totals;
  /// What the model's own head drafted behind the first `predicted_at` tokens.
  std::vector<int32_t> predicted;
  int64_t predicted_at = 0;
  bool catching_up = false;  ///< The draft model has read a part of what it was behind, and not yet all.
  bool unexpected = false;   ///< The text differs from what was expected.
  bool off = false;          ///< A step failed in rows of which some were drafted.
};

struct Sequence {
  SeqId id;  ///< Ascends with arrival: the highest id is the youngest.
  RequestId request_id;
  int choice = 0;  ///< Its index among the sequences of the request.
  GenerationRequest request;
  std::shared_ptr<EventSink> sink;
  std::shared_ptr<SequenceMasks> masks;  ///< Where the request has a constraint.
  Clock::time_point queued_at = Clock::now();

  std::vector<int32_t> tokens;  ///< Prompt, then generated.
  SequenceState state = SequenceState::kWaiting;
  SequenceCursor cursor;  ///< Its blocks and slots, and how far it is cached or in a step in flight.
  CacheStanding standing;
  AwaitedPrefix awaited;
  SequenceDrafts drafts;
  int steps_in_flight = 0;        ///< Steps in flight that name its blocks.
  bool sample_pending = false;    ///< A step in flight will give its next token.
  bool begun = false;             ///< Its NewSequence was sent since it last got blocks.
  bool known_to_workers = false;  ///< Some step carried its NewSequence: its end must be told.
  bool started = false;           ///< Got blocks at some time: a lost engine is waited for (OnLoss::kResume).
  bool announced = false;         ///< Its sink was told that it begins.
  int losses_in_a_row = 0;        ///< Engines lost with it in the oldest step, since its last token.
  StepId last_step;
  int64_t charged = 0;  ///< Of its tokens: so many are on its party's account.
  int64_t scored = 0;   ///< Of the prompt: tokens behind the first whose scores came.
  /// The last entries of request.sampling.logit_bias, which withhold eos_ids until min_tokens are there.
  size_t withheld = 0;

  int64_t generated() const { return std::ssize(tokens) - std::ssize(request.prompt); }
  /// Positions that have a token but are in no step yet.
  int64_t unscheduled() const { return std::ssize(tokens) - cursor.position(); }
  /// Positions that may come from the cache: the last token is computed, and so is what the request asks of the
  /// prompt's rows.
  int64_t cacheable() const {
    if (request.pool == Pool::kMean) return 0;
    const bool all_scored = !request.score_prompt || scored + 1 >= std::ssize(request.prompt);
    return all_scored ? std::ssize(tokens) - 1 : std::min<int64_t>(scored, std::ssize(tokens) - 1);
  }
  /// One token a step from here on, at least: all but its last one are cached or in flight, or were accepted as drafted.
  bool decoding() const { return sample_pending || unscheduled() == 1 + standing.again; }
};

}  // namespace shoal
