// Drafts for the sequences of a step: what may follow is looked up in each sequence's own tokens, came from the model's
// own head with the step before, or comes from a small model, cut to what its request allows and to what pays. An
// engine samples every position anyway, by a key that does not know of drafts, so a drafted token is accepted exactly
// when it is the one that would have come.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "exec/engine.h"
#include "sched/draft_model.h"
#include "sched/draft_policy.h"
#include "sched/sequence.h"

namespace shoal {

struct DraftOptions {
  int tokens_max = 0;  ///< Of one draft; 0: no drafts.
  DraftWhen when = DraftWhen::kPays;
};

/// Belongs to the scheduler's thread.
class Drafter {
 public:
  explicit Drafter(DraftOptions options) : options_(options), policy_(options.when) {}

  /// A new generation of the engine.
  void reset(const EngineLimits& limits);

  /// Takes more of the sequence's tokens into its index: some thousand at a time, as a long prompt is computed.
  void index(Sequence& sequence) const;

  /// A draft for each of `sequences`, which all decode next in one step; mostly empty ones. nullopt: the draft model
  /// works for them first, until waits() says no of each; ask again then.
  std::optional<std::vector<Draft>> draft(std::span<Sequence* const> sequences, const UndraftedStep& step);
  /// A sequence that must not decode before the draft model is done.
  bool waits(const Sequence& sequence) const { return model_.drafts_for(sequence.id); }
  bool drafting() const { return model_.drafting(); }

  /// Whether the step in which the sequence gets its next tokens is to draft what follows them (SeqSlice::draft): where
  /// it may be of use, and drafts of the kind paid lately.
  bool asks_head(const Sequence& sequence) const;
  /// What that step drafted behind the tokens that the sequence has now.
  static void predicted(Sequence& sequence, std::span<const int32_t> tokens);

  /// The sequence got its tokens of a step, for which it had `draft`; the first `accepted` of that were right.
  void verified(Sequence& sequence, const Draft& draft, int64_t accepted);
  /// A step failed in the sequence's rows, of which some were drafted: from now on it gets no drafts.
  void failed(Sequence& sequence, const Draft& draft);
  /// The sequence has ended.
  void forget(SeqId id) { model_.forget(id); }

  /// As DraftPolicy::observe_step.
  void observe_step(int64_t rows, double ns, bool alone) { policy_.observe_step(rows, ns, alone); }

  const DraftTotals& totals() const { return totals_; }              ///< Since the start, from all sources.
  const DraftTotals& model_totals() const { return model_totals_; }  ///< Those of the draft model.
  const DraftTotals& mtp_totals() const { return mtp_totals_; }      ///< Those of the model's own head.

  /// As DraftModel's. A lost draft model costs drafts only.
  void reset_model(const EngineLimits& limits) { model_.reset(limits); }
  void lose_model() { model_.lose(); }
  std::optional<Step> compose() { return model_.compose(); }
  absl::Status acknowledge(const StepResult& result, int64_t rows, int64_t ns);
  const DraftModel& model() const { return model_; }

 private:
  bool drafts_for(const Sequence& sequence) const;
  int64_t tokens_max(const Sequence& sequence, int64_t draft_max) const;
  Draft draft_for(Sequence& sequence) const;
  void look_up(std::span<Sequence* const> sequences, std::vector<Draft>& drafts) const;
  bool begin_round(std::span<Sequence* const> sequences, std::span<const Draft> drafts,
                   const UndraftedStep& step);
  void take_drafted(const Sequence& sequence, Draft& draft) const;
  void take_predicted(const Sequence& sequence, Draft& draft) const;
  void take_better(const Sequence& sequence, Draft other, Draft& draft) const;

  const DraftOptions options_;
  EngineLimits limits_;
  DraftPolicy policy_;
  DraftModel model_;
  DraftTotals totals_;
  DraftTotals model_totals_;
  DraftTotals mtp_totals_;
  int64_t steps_ = 0;    // For which draft() was asked.
  int64_t useless_ = 0;  // Of those with drafts of the head, since the last that accepted one.
};

}  // namespace shoal
