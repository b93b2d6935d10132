// How many drafted tokens a step is to verify: as many as pay, by how often drafts were right lately and by what a row
// more costs. No text depends on it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sched/step_cost.h"

namespace shoal {

/// How often drafted tokens were right, by the length of the match that they came from. What is old counts less.
class DraftRates {
 public:
  /// One token drafted behind a match of `matched` tokens, of whose predecessors none was wrong.
  void observe(int64_t matched, bool right, double window);
  /// Time has passed: the share `kept` of what was seen still counts.
  void fade(double kept);

  /// Right and tried tokens that count, of matches like this one.
  struct Seen {
    double right = 0;
    double tried = 0;
  };
  const Seen& of(int64_t matched) const { return seen_[kind_of(matched)]; }

  /// The share of right tokens that is believed before any were seen.
  static double prior(int64_t matched);

 private:
  static constexpr size_t kKinds = 5;
  static size_t kind_of(int64_t matched);
  std::array<Seen, kKinds> seen_;
};

/// A sequence that can be drafted for.
struct DraftCandidate {
  const DraftRates* rates = nullptr;  ///< Its own.
  int64_t matched = 0;                ///< As Draft::matched.
  int64_t tokens = 0;                 ///< Of the draft.
};

/// What became of a draft.
struct VerifiedDraft {
  int64_t matched = 0;   ///< As Draft::matched.
  int64_t tokens = 0;    ///< That were verified; 0: there was no draft.
  int64_t accepted = 0;  ///< The first so many of them were right.
};

/// A step without its drafts.
struct UndraftedStep {
  int64_t decodes = 0;     ///< Sequences that get a token, at least one.
  int64_t rows = 0;        ///< All its rows, those of prompts included.
  int64_t draft_rows = 0;  ///< The most rows that drafts may add.
  bool alone = true;       ///< No other step is in flight with it.
};

/// Weighs tokens against time for the step as a whole: with the expected number of tokens G and the expected time T of
/// the step, drafted rows are added, the likeliest first, to where G / T is largest. A step that is wide already, or a
/// mixture of experts that reads other experts for each row, so gets fewer. Sequences without a draft are not made to wait
/// much for those of others. Belongs to one thread; knows no clock.
class DraftPolicy {
 public:
  /// A new cluster: what steps cost is unknown.
  void reset();

  /// A step of `rows` rows took `ns`, together with others in flight or alone.
  void observe_step(int64_t rows, double ns, bool alone);

  /// How many tokens of each candidate's draft to verify.
  std::vector<int64_t> choose(std::span<const DraftCandidate> candidates, const UndraftedStep& step) const;

  /// A sequence whose rates are `own` got its tokens of a step, with a draft or without.
  void verified(DraftRates& own, const VerifiedDraft& draft);

  /// Probability that the token behind a match of `matched` is drafted right.
  double likelihood(const DraftRates& own, int64_t matched) const;

 private:
  const StepCost& costs(bool alone) const;

  DraftRates all_;  // Of all sequences: what is expected of a new one.
  StepCost alone_;
  StepCost together_;
};

}  // namespace shoal
