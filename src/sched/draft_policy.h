// How many drafted tokens a step is to verify: as many as pay, by how often drafts were right lately and by what a row
// more costs. No text depends on it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "sched/draft.h"
#include "sched/step_cost.h"

namespace shoal {

/// What a drafted token is judged by.
struct DraftBasis {
  DraftSource source = DraftSource::kLookup;
  int64_t matched = 0;  ///< Of kLookup: the length of the match behind the token.
};

/// How often drafted tokens were right, by what they came from. What is old counts less.
class DraftRates {
 public:
  /// One token drafted on this basis, of whose predecessors none was wrong.
  void observe(DraftBasis basis, bool right, double window);
  /// Time has passed: the share `kept` of what was seen still counts.
  void fade(double kept);

  /// Right and tried tokens that count, of those like this one.
  struct Seen {
    double right = 0;
    double tried = 0;
  };
  const Seen& of(DraftBasis basis) const { return seen_[kind_of(basis)]; }

  /// The share of right tokens that is believed before any were seen.
  static double prior(DraftBasis basis);

 private:
  static constexpr size_t kKinds = 7;
  static size_t kind_of(DraftBasis basis);
  std::array<Seen, kKinds> seen_;
};

/// A sequence that can be drafted for.
struct DraftCandidate {
  const DraftRates* rates = nullptr;  ///< Its own.
  int64_t matched = 0;                ///< As Draft::matched.
  int64_t tokens = 0;                 ///< Of the draft.
  DraftSource source = DraftSource::kLookup;
  int64_t certain = 0;  ///< As Draft::certain.

  /// Of the token behind `before` tokens of the draft.
  DraftBasis basis(int64_t before) const { return {source, matched + before}; }
};

/// What a draft model could do for a sequence.
struct DraftOffer {
  int64_t tokens = 0;  ///< That it could draft at most; 0: none.
  int64_t behind = 0;  ///< Rows that it has to compute before the first of them can be drafted.
  int64_t left = 0;    ///< Tokens that the sequence is expected to get yet.
  bool begun = false;  ///< Part of the rows that it was behind are computed already.
};

/// What a draft model is to do for a sequence between two steps.
struct DraftShare {
  int64_t rows = 0;    ///< Of those that it is behind; 0: nothing.
  int64_t tokens = 0;  ///< To draft then; 0 unless rows are all that it is behind.
};

/// What a draft model has taken and what it has saved, in nanoseconds: where it has lost, nothing more is invested in it
/// until the allowance makes up for that. So a text that it guesses wrongly, after one that it guessed well, is slower by
/// the allowance and not by all that has to be learned again for each request.
class DraftAccount {
 public:
  /// A step took `ns`.
  void allow(double ns);
  void spend(double ns) { balance_ns_ -= ns; }
  void save(double ns) { balance_ns_ += ns; }

  bool may_invest() const { return balance_ns_ >= 0; }

 private:
  double balance_ns_ = 0;
};

/// What became of a draft.
struct VerifiedDraft {
  int64_t matched = 0;   ///< As Draft::matched.
  int64_t tokens = 0;    ///< That were verified; 0: there was no draft.
  int64_t accepted = 0;  ///< The first so many of them were right.
  DraftSource source = DraftSource::kLookup;
  int64_t certain = 0;  ///< The first so many say nothing of others.
};

/// A step without its drafts.
struct UndraftedStep {
  int64_t decodes = 0;     ///< Sequences that get a token, at least one.
  int64_t rows = 0;        ///< All its rows, those of prompts included.
  int64_t draft_rows = 0;  ///< The most rows that drafts may add.
  bool alone = true;       ///< No other step is in flight with it.
  /// Of models that keep states: behind so many tokens of each draft, the first ones, the state is kept (-1: not even
  /// before the first), and behind all. If others are right but not all, the sequence computes them again.
  int64_t states_kept = std::numeric_limits<int64_t>::max();
};

/// Rows of one step of a draft model at most.
inline constexpr int64_t kDraftStepRows = 256;

/// Whether drafts must pay.
enum class DraftWhen : uint8_t {
  kPays,    ///< Only what promises more tokens per time.
  kAlways,  ///< All that there is room for, to measure how much of it is right.
};

/// Weighs tokens against time for the step as a whole: with the expected number of tokens G and the expected time T of
/// the step, drafted rows are added, the likeliest first, to where G / T is largest. A step that is wide already, or a
/// mixture of experts that reads other experts for each row, so gets fewer. What a draft model takes before the step is
/// part of T. Sequences without a draft are not made to wait much for those of others. Belongs to one thread; knows no
/// clock.
class DraftPolicy {
 public:
  explicit DraftPolicy(DraftWhen when = DraftWhen::kPays) : when_(when) {}

  /// A new cluster: what steps cost is unknown.
  void reset();

  /// A step of `rows` rows took `ns`, together with others in flight or alone.
  void observe_step(int64_t rows, double ns, bool alone);
  /// A step of the draft model.
  void observe_draft_step(int64_t rows, double ns);

  /// How many tokens of each candidate's draft to verify.
  std::vector<int64_t> choose(std::span<const DraftCandidate> candidates, const UndraftedStep& step) const;

  /// What the draft model is to do before a step whose sequences have these drafts without it: for each the same index.
  /// Nothing for any of them where that does not pay. A sequence far behind is caught up in chunks, none of which takes
  /// much longer than a step, where what it is to gain outweighs all of them and the model has not lost lately.
  std::vector<DraftShare> choose_round(std::span<const DraftCandidate> candidates,
                                       std::span<const DraftOffer> offers, const UndraftedStep& step);

  /// A sequence whose rates are `own` got its tokens of a step, with a draft or without.
  void verified(DraftRates& own, const VerifiedDraft& draft);

  /// Probability that a token drafted on this basis is right.
  double likelihood(const DraftRates& own, DraftBasis basis) const;
  /// Probability that the candidate's token behind `before` of its draft is right, if those are.
  double likelihood(const DraftCandidate& candidate, int64_t before) const;
  /// Tokens of the candidate's draft that are expected to be right.
  double expected(const DraftCandidate& candidate) const;

 private:
  /// The best for these candidates where `before_ns` pass before the step.
  struct Weighed {
    std::vector<int64_t> counts;
    double rate = 0;  // Tokens per nanosecond; 0 where nothing is known.
  };
  Weighed weigh(std::span<const DraftCandidate> candidates, const UndraftedStep& step,
                double before_ns) const;
  /// A round that drafts for all with an offer: how many tokens, and what rate that promises.
  struct Round {
    int64_t tokens = 0;
    double rate = 0;
    std::vector<bool> drafted;  // Those for whom the model drafts; a lookup is better for others.
  };
  Round best_round(std::span<const DraftCandidate> candidates, std::span<const DraftOffer> offers,
                   const UndraftedStep& step) const;
  Round round_of(int64_t tokens, std::span<const DraftCandidate> candidates,
                 std::span<const DraftOffer> offers, const UndraftedStep& step) const;
  void catch_up(std::span<const DraftCandidate> candidates, std::span<const DraftOffer> offers,
                const UndraftedStep& step, double rate, std::vector<DraftShare>& shares) const;
  int64_t chunk_rows(double step_ns) const;
  std::vector<DraftShare> trial(std::span<const DraftOffer> offers) const;
  const StepCost& costs(bool alone) const;
  bool may_try(const DraftCandidate& candidate, const DraftOffer& offer) const;
  /// What a draft of the model saved, negative where it cost more.
  double saved_ns(const VerifiedDraft& draft) const;

  DraftWhen when_;
  DraftRates all_;  // Of all sequences: what is expected of a new one.
  StepCost alone_;
  StepCost together_;
  StepCost model_;                               // Of the draft model's steps.
  DraftAccount account_;                         // Of the draft model.
  UndraftedStep last_{.decodes = 1, .rows = 1};  // For which a round was thought about.
  int64_t undrafted_for_ = 0;                    // Steps since the last of the draft model's.
};

}  // namespace shoal
