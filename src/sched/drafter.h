// Drafts for the sequences of a step: what may follow is looked up in each sequence's own tokens, cut to what its
// request allows and to what pays. An engine samples every position anyway, by a key that does not know of drafts, so a
// drafted token is accepted exactly when it is the one that would have come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exec/engine.h"
#include "sched/draft_policy.h"
#include "sched/sequence.h"

namespace shoal {

/// Belongs to the scheduler's thread.
class Drafter {
 public:
  /// draft_max: the most tokens of one draft; 0: no drafts.
  explicit Drafter(int draft_max) : draft_max_(draft_max) {}

  /// A new generation of the engine.
  void reset(const EngineLimits& limits);

  /// Takes more of the sequence's tokens into its index: some thousand at a time, as a long prompt is computed.
  void index(Sequence& sequence);

  /// A draft for each of `sequences`, which all decode next in one step; mostly empty ones.
  std::vector<Draft> draft(std::span<Sequence* const> sequences, const UndraftedStep& step);

  /// The sequence got its tokens of a step, for which it had `draft`; the first `accepted` of that were right.
  void verified(Sequence& sequence, const Draft& draft, int64_t accepted);
  /// A step failed in the sequence's rows, of which some were drafted: from now on it gets no drafts.
  void failed(Sequence& sequence, const Draft& draft);

  /// As DraftPolicy::observe_step.
  void observe_step(int64_t rows, double ns, bool alone) { policy_.observe_step(rows, ns, alone); }

  const DraftTotals& totals() const { return totals_; }  ///< Since the start.

 private:
  bool drafts_for(const Sequence& sequence) const;
  int64_t tokens_max(const Sequence& sequence) const;

  const int draft_max_;
  EngineLimits limits_;
  DraftPolicy policy_;
  DraftTotals totals_;
};

}  // namespace shoal
