// A small model that drafts: which of its sequences it computes how far, and what lies in its cache. It drafts for the
// sequences of a step in a round of steps of its own engine, the first of which takes in what it has not seen of them.
// Source: Leviathan et al. 2023, arXiv:2211.17192; drafts are drawn with the random numbers of the tokens that they
// guess, as in Daliri et al. 2024, arXiv:2408.07978, so that equal distributions draw equal tokens.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "exec/engine.h"
#include "kv/block_pool.h"
#include "sched/draft_policy.h"
#include "sched/sequence.h"

namespace shoal {

/// Of the draft model's steps, since the start.
struct DraftModelStats {
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t ns = 0;  ///< From submit to result.
};

/// Its cache keeps what it computed of sequences that have ended, for others that begin alike, until a running one needs
/// the room. Belongs to the scheduler's thread; does no I/O and calls nobody.
class DraftModel {
 public:
  /// A new generation of its engine, whose caches are empty. CHECKs CheckLimits, and that the model keeps no states.
  void reset(const EngineLimits& limits);
  /// Its engine is gone: what it was drafting, too.
  void lose();

  /// Nothing of it is drafting: a round may begin.
  bool idle() const { return up_ && round_.empty(); }
  bool drafting() const { return !round_.empty(); }
  /// The round that goes on is for this sequence, among others.
  bool drafts_for(SeqId id) const;

  /// What it could do for the sequence, which wants `tokens` at most. CHECKs idle().
  DraftOffer offer(const Sequence& sequence, int64_t tokens);

  struct Wish {
    const Sequence& sequence;
    DraftShare share;
  };
  /// Begins a round; whom it has no room for is left out. False where that is everybody. vocabulary: of the model that
  /// verifies; no draft goes beyond it. CHECKs idle().
  bool begin(std::span<const Wish> wishes, int32_t vocabulary);

  /// The next step of the round, nullopt while there is none to submit.
  std::optional<Step> compose();
  /// The step in flight came back, `ns` after it was submitted. Internal if the result does not match it.
  absl::Status acknowledge(const StepResult& result, int64_t ns);

  /// What the last round drafted behind the sequence's tokens; nullptr where it has other tokens by now, or was not in
  /// that round. Empty: it was caught up with only.
  const std::vector<int32_t>* drafted(const Sequence& sequence) const;

  /// The sequence has ended.
  void forget(SeqId id);

  const DraftModelStats& stats() const { return stats_; }
  /// Each block has one owner, or none and is free.
  absl::Status verify() const;

 private:
  /// What the model has of a sequence.
  struct Copy {
    SequenceCursor cursor;
    std::vector<int32_t> tokens;  // At positions [0, cursor.position()).
    int64_t agreed = 0;           // The sequence had the first so many of them when it was looked at last.
    uint64_t used_at = 0;
    size_t withheld = 0;   // As the engine was told.
    bool told = false;     // The engine knows its sampling, and its tokens up to the last slice.
    bool known = false;    // The engine was told of it at some time.
    bool ended = false;    // The sequence is gone.
    bool refused = false;  // It failed, or has tokens that the model does not know.
  };
  /// A sequence of the round.
  struct Member {
    SeqId id;
    int64_t length = 0;         // Tokens that the sequence has.
    std::vector<int32_t> feed;  // Of the next step; empty: it is done.
    int64_t wanted = 0;         // Tokens to draft.
    std::vector<int32_t> ends;  // Ids behind which nothing is drafted.
    std::vector<int32_t> drafted;
    std::optional<NewSequence> begin;
  };
  struct Drafted {
    int64_t length = 0;
    std::vector<int32_t> tokens;
  };

  Copy& copy_of(const Sequence& sequence);
  std::map<SeqId, Copy>::iterator most_alike(const Sequence& sequence);
  void agree(Copy& copy, const Sequence& sequence) const;
  std::optional<Member> member(const Wish& wish);
  NewSequence introduce(const Sequence& sequence) const;
  bool make_room(SeqId id, Copy& copy, int64_t positions);
  void drop(std::map<SeqId, Copy>::iterator copy);
  void clear(Copy& copy);
  absl::Status read(const SeqResult& one, Member& member);
  void end_round();

  bool up_ = false;
  EngineLimits limits_;
  BlockPool pool_{0};
  std::map<SeqId, Copy> copies_;
  uint64_t clock_ = 0;  // Of used_at.
  std::vector<Member> round_;
  int32_t vocabulary_ = 0;
  StepId next_step_{1};
  bool in_flight_ = false;
  std::unordered_map<SeqId, Drafted> drafted_;  // In the last round.
  std::vector<SeqId> ends_;                     // To be told to the engine.
  DraftModelStats stats_;
};

}  // namespace shoal
