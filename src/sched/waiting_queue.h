// The sequences that wait, in the order in which they are admitted: by priority, fairly between parties, by arrival.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/ids.h"
#include "sched/sequence.h"

namespace shoal {

/// Sequences with a lower priority number come first. Of one priority, those that have run before (preempted ones, and
/// those of a lost engine) come before those that have not, by arrival. The others belong to parties, each of which has
/// an account of the tokens that it was given, prompts and answers alike; the party that was given least is next, and
/// its own sequences go by arrival. A party that begins to wait is put on a level with those that do, so that it can't
/// save up for later. Source: Sheng et al. 2024, arXiv:2401.00588 (virtual token counters, all weights 1).
///
/// What others may overtake a sequence by is bounded: each that is admitted is charged, and the sequence's own party
/// is charged only for what it is given.
class WaitingQueue {
 public:
  void insert(Sequence& sequence);
  /// Nothing happens if it is not there.
  void erase(const Sequence& sequence);

  /// The sequence's party was given so many tokens: a prompt when it is admitted, an answer as it comes.
  void charge(const Sequence& sequence, int64_t tokens);

  int size() const { return size_; }
  /// Those that have never run.
  int fresh() const { return fresh_; }
  int64_t fresh_tokens() const { return fresh_tokens_; }  ///< Of them: what they begin with.

 private:
  using Line = std::map<SeqId, Sequence*>;
  struct Party {
    int64_t given = 0;
    Line fresh;
  };
  struct Level {
    Line begun;
    std::map<std::string, Party> parties;
    const Party* left_last = nullptr;

    /// What the party that waits and was given least was given.
    int64_t given_least() const;
  };

 public:
  /// Goes over the queue in its order. The sequence that next() gave last may be erased, and parties charged.
  class Walk {
   public:
    explicit Walk(const WaitingQueue& queue);
    Sequence* next();  ///< nullptr at the end.

   private:
    struct Cursor {
      const Party* party = nullptr;  // nullptr: those that have begun.
      Line::const_iterator at;
      Line::const_iterator end;
    };
    void open();

    std::map<int, Level>::const_iterator level_;
    std::map<int, Level>::const_iterator end_;
    std::vector<Cursor> cursors_;  // Those of the level that are not at their end.
  };

  std::vector<SeqId> ids() const;

 private:
  std::map<int, Level>
      levels_;  // By priority. Bounded: kPriorityMin to kPriorityMax, and the keys of the API.
  int size_ = 0;
  int fresh_ = 0;
  int64_t fresh_tokens_ = 0;
};

}  // namespace shoal
