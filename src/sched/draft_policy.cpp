#include "sched/draft_policy.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

namespace shoal {
namespace {

/// Drafts must promise so much more tokens per time: estimates are noisy, and a step without drafts is what is known
/// best.
constexpr double kMargin = 1.02;
/// Sequences of the step that have no draft wait so much longer for their token at most.
constexpr double kOthersWait = 1.1;
/// What is believed of a match before anything was seen, by its kind, of a draft model's token, and of one of the head
/// for multi-token prediction; and how many seen tokens that is worth.
constexpr double kPriors[] = {0.3, 0.4, 0.5, 0.65, 0.8, 0.7, 0.75};
constexpr size_t kModelKind = 5;
constexpr size_t kMtpKind = 6;
constexpr double kPriorWeight = 4;
/// How many seen tokens of its own outweigh what others had.
constexpr double kOthersWeight = 2;
/// Tokens that count: a sequence changes from prose to a copy within a sentence.
constexpr double kOwnWindow = 16;
constexpr double kAllWindow = 256;
/// What one step leaves of the past. A kind that was never right lately is believed again after some 100 tokens of a
/// sequence, or 1000 steps of all, and tried again where that pays.
constexpr double kOwnKept = 0.99;
constexpr double kAllKept = 0.999;
/// Less is not worth a thought, nor are more rows in one step.
constexpr double kGainMin = 0.02;
constexpr int64_t kDraftRowsMax = 128;
/// Tokens that one round of a draft model is thought about for.
constexpr int64_t kRoundTokensMax = 32;
/// Longer rounds than the best are not thought about when so many of them were no better.
constexpr int64_t kWorseMax = 3;
/// A sequence so far behind is caught up on the way, as if it were not; else in chunks of so many rows at least.
constexpr int64_t kNear = 16;
constexpr int64_t kChunkMin = 16;
/// While nothing is known of the draft model, it shows so much; and it is tried anew after so many steps without it.
constexpr int64_t kTrialRows = 64;
constexpr int64_t kTrialTokens = 2;
constexpr int64_t kTrialEvery = 1000;
/// What drafts of a model may lose: so much of the time of all steps, saved up for so many steps at most.
constexpr double kAllowance = 0.015;
constexpr double kSavedSteps = 4;
/// Tokens of the model that were right lately: a sequence that has so many goes on whatever others lost.
constexpr double kProven = 1;
/// Below 1, so that a longer draft is always less sure than a shorter one.
constexpr double kSurest = 0.98;

/// Of a step of `rows` rows and what is expected of more of them, in nanoseconds.
double TimeOf(const StepCost& costs, int64_t rows, double more) {
  const auto whole = static_cast<int64_t>(more);
  const double ns = costs.at(rows + whole);
  return ns + (more - static_cast<double>(whole)) * (costs.at(rows + whole + 1) - ns);
}

/// What does not fit into one step has to wait for another round.
void KeepWithinStep(std::span<const DraftOffer> offers, std::vector<DraftShare>& shares) {
  int64_t left = kDraftStepRows;
  for (size_t i = 0; i < shares.size(); ++i) {
    shares[i].rows = std::min(shares[i].rows, left);
    if (shares[i].rows < offers[i].behind) shares[i].tokens = 0;
    left -= shares[i].rows;
  }
}

}  // namespace

size_t DraftRates::kind_of(DraftBasis basis) {
  if (basis.source == DraftSource::kModel) return kModelKind;
  if (basis.source == DraftSource::kMtp) return kMtpKind;
  constexpr int64_t kBegins[] = {4, 6, 9, 16};
  return static_cast<size_t>(std::ranges::upper_bound(kBegins, basis.matched) - kBegins);
}

double DraftRates::prior(DraftBasis basis) { return kPriors[kind_of(basis)]; }

void DraftRates::observe(DraftBasis basis, bool right, double window) {
  Seen& seen = seen_[kind_of(basis)];
  seen.tried += 1;
  seen.right += right ? 1 : 0;
  if (seen.tried <= window) return;
  seen.right *= window / seen.tried;
  seen.tried = window;
}

void DraftRates::fade(double kept) {
  for (Seen& seen : seen_) {
    seen.right *= kept;
    seen.tried *= kept;
  }
}

// A gain is kept for the next investment, but not for ever: what a good text gained must not pay for a long bad one.
void DraftAccount::allow(double ns) {
  balance_ns_ = std::min(balance_ns_ + kAllowance * ns, kSavedSteps * ns);
}

void DraftPolicy::reset() {
  alone_ = {};
  together_ = {};
  account_ = {};
}

void DraftPolicy::observe_step(int64_t rows, double ns, bool alone) {
  (alone ? alone_ : together_).observe(rows, ns);
  all_.fade(kAllKept);
  account_.allow(ns);
  if (++undrafted_for_ > kTrialEvery) model_ = {};  // What looked too dear once may have been a busy machine.
}

void DraftPolicy::observe_draft_step(int64_t rows, double ns) {
  model_.observe(rows, ns);
  account_.spend(ns);
  undrafted_for_ = 0;
}

const StepCost& DraftPolicy::costs(bool alone) const {
  const StepCost& own = alone ? alone_ : together_;
  return own.known() ? own : alone ? together_ : alone_;
}

double DraftPolicy::likelihood(const DraftRates& own, DraftBasis basis) const {
  const DraftRates::Seen& mine = own.of(basis);
  const DraftRates::Seen& all = all_.of(basis);
  const double others = (all.right + kPriorWeight * DraftRates::prior(basis)) / (all.tried + kPriorWeight);
  return std::min(kSurest, (mine.right + kOthersWeight * others) / (mine.tried + kOthersWeight));
}

double DraftPolicy::likelihood(const DraftCandidate& candidate, int64_t before) const {
  return before < candidate.certain ? 1 : likelihood(*candidate.rates, candidate.basis(before));
}

double DraftPolicy::expected(const DraftCandidate& candidate) const {
  double gain = 1;
  double sum = 0;
  for (int64_t j = 0; j < candidate.tokens; ++j) {
    gain *= likelihood(candidate, j);
    sum += gain;
  }
  return sum;
}

std::vector<int64_t> DraftPolicy::choose(std::span<const DraftCandidate> candidates,
                                         const UndraftedStep& step) const {
  if (when_ == DraftWhen::kPays) return weigh(candidates, step, 0).counts;
  std::vector<int64_t> counts;
  int64_t left = step.draft_rows;
  for (const DraftCandidate& one : candidates) {
    counts.push_back(std::clamp<int64_t>(left, 0, one.tokens));
    left -= counts.back();
  }
  return counts;
}

DraftPolicy::Weighed DraftPolicy::weigh(std::span<const DraftCandidate> candidates, const UndraftedStep& step,
                                        double before_ns) const {
  Weighed weighed{.counts = std::vector<int64_t>(candidates.size())};
  const StepCost& costs = this->costs(step.alone);
  if (!costs.known()) return weighed;
  struct Row {
    double gain = 0;   // Probability that it and all drafted before it are right: a token more.
    double again = 0;  // Rows that are expected to be computed again because it is wrong.
    size_t candidate = 0;
  };
  std::vector<Row> rows;
  int64_t drafted = 0;  // Candidates that have a draft.
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].tokens > 0) ++drafted;
    double gain = 1;
    for (int64_t j = 0; j < candidates[i].tokens; ++j) {
      const double before = std::exchange(gain, gain * likelihood(candidates[i], j));
      if (gain < kGainMin) break;
      const auto unkept = static_cast<double>(std::max<int64_t>(j - step.states_kept, 0));
      rows.push_back({gain, (before - gain) * unkept, i});
    }
  }
  const auto most = std::min<int64_t>(std::ssize(rows), std::min(step.draft_rows, kDraftRowsMax));
  std::ranges::partial_sort(rows, rows.begin() + most, std::ranges::greater(), &Row::gain);
  const double undrafted_ns = costs.at(step.rows);
  const double most_ns =
      drafted < step.decodes ? kOthersWait * undrafted_ns : std::numeric_limits<double>::infinity();
  auto tokens = static_cast<double>(step.decodes);
  weighed.rate = tokens / (before_ns + undrafted_ns);
  double best = kMargin * weighed.rate;
  int64_t taken = 0;
  double again = 0;
  for (int64_t n = 1; n <= most; ++n) {
    tokens += rows[static_cast<size_t>(n - 1)].gain;
    again += rows[static_cast<size_t>(n - 1)].again;
    const double ns = before_ns + TimeOf(costs, step.rows + n, again);
    if (ns > most_ns) break;
    const double rate = tokens / ns;
    if (rate <= best) continue;
    best = weighed.rate = rate;
    taken = n;
  }
  for (int64_t n = 0; n < taken; ++n) ++weighed.counts[rows[static_cast<size_t>(n)].candidate];
  return weighed;
}

// The likeliest of a candidate's rows come first, whether of a lookup or of the model; so it is the better whole.
DraftPolicy::Round DraftPolicy::round_of(int64_t tokens, std::span<const DraftCandidate> candidates,
                                         std::span<const DraftOffer> offers,
                                         const UndraftedStep& step) const {
  Round round{.tokens = tokens, .drafted = std::vector<bool>(offers.size())};
  std::vector<DraftCandidate> mixed(candidates.begin(), candidates.end());
  int64_t behind = 0;
  int64_t sequences = 0;
  for (size_t i = 0; i < offers.size(); ++i) {
    if (offers[i].tokens == 0) continue;
    const DraftCandidate by_model{.rates = candidates[i].rates,
                                  .tokens = std::min(tokens, offers[i].tokens),
                                  .source = DraftSource::kModel};
    if (expected(candidates[i]) >= expected(by_model)) continue;
    mixed[i] = by_model;
    round.drafted[i] = true;
    behind += offers[i].behind;
    ++sequences;
  }
  if (sequences == 0) return round;
  const double ns = model_.at(behind) + static_cast<double>(tokens - 1) * model_.at(sequences);
  round.rate = weigh(mixed, step, ns).rate;
  return round;
}

DraftPolicy::Round DraftPolicy::best_round(std::span<const DraftCandidate> candidates,
                                           std::span<const DraftOffer> offers,
                                           const UndraftedStep& step) const {
  int64_t most = 0;
  for (const DraftOffer& offer : offers) most = std::max(most, offer.tokens);
  Round best;
  int64_t worse = 0;
  for (int64_t tokens = 1; tokens <= std::min(most, kRoundTokensMax) && worse < kWorseMax; ++tokens) {
    Round round = round_of(tokens, candidates, offers, step);
    worse = round.rate > best.rate ? 0 : worse + 1;
    if (worse == 0) best = std::move(round);
  }
  return best;
}

// Rows of a chunk that takes about as long as a step.
int64_t DraftPolicy::chunk_rows(double step_ns) const {
  int64_t rows = kChunkMin;
  while (rows < kDraftStepRows && model_.at(2 * rows) <= step_ns) rows *= 2;
  return rows;
}

std::vector<DraftShare> DraftPolicy::trial(std::span<const DraftOffer> offers) const {
  std::vector<DraftShare> shares(offers.size());
  const DraftOffer* least = nullptr;
  for (const DraftOffer& offer : offers) {
    if (offer.tokens > 0 && (least == nullptr || offer.behind < least->behind)) least = &offer;
  }
  if (least == nullptr) return shares;
  const int64_t rows = std::min(least->behind, kTrialRows);
  shares[static_cast<size_t>(least - offers.data())] = {
      rows, rows == least->behind ? std::min(kTrialTokens, least->tokens) : 0};
  return shares;
}

// One chunk, of the sequence that is behind least, where all far behind would gain more than they cost. rate: without
// them.
void DraftPolicy::catch_up(std::span<const DraftCandidate> candidates, std::span<const DraftOffer> offers,
                           const UndraftedStep& step, double rate, std::vector<DraftShare>& shares) const {
  if (std::ranges::none_of(offers,
                           [](const DraftOffer& one) { return one.tokens > 0 && one.behind > kNear; }))
    return;
  std::vector<DraftOffer> caught_up(offers.begin(), offers.end());
  for (DraftOffer& offer : caught_up) offer.behind = std::min<int64_t>(offer.behind, 1);
  const Round then = best_round(candidates, caught_up, step);
  if (then.rate <= kMargin * rate) return;
  const double step_ns = costs(step.alone).at(step.rows);
  const int64_t chunk = chunk_rows(step_ns);
  const double row_ns = model_.at(chunk) / static_cast<double>(chunk);
  double cost_ns = 0;
  double left = 0;  // Tokens of the one that goes on longest.
  size_t next = offers.size();
  for (size_t i = 0; i < offers.size(); ++i) {
    if (!then.drafted[i] || offers[i].behind <= kNear) continue;
    cost_ns += row_ns * static_cast<double>(offers[i].behind);
    left = std::max(left, static_cast<double>(offers[i].left));
    if (next == offers.size() || offers[i].behind < offers[next].behind) next = i;
  }
  if (next == offers.size()) return;
  const double saved_ns = left * static_cast<double>(step.decodes) * (1 / rate - 1 / then.rate);
  if (saved_ns <= cost_ns) return;
  const int64_t rows = std::min(offers[next].behind, chunk);
  shares[next] = {rows, rows == offers[next].behind ? std::min(then.tokens, offers[next].tokens) : 0};
}

// Where the model has lost, only sequences that it guesses well go on with it, and what is begun is finished: it gains
// nothing before that.
bool DraftPolicy::may_try(const DraftCandidate& candidate, const DraftOffer& offer) const {
  if (offer.begun || account_.may_invest()) return true;
  return offer.behind <= kNear && candidate.rates->of({.source = DraftSource::kModel}).right >= kProven;
}

std::vector<DraftShare> DraftPolicy::choose_round(std::span<const DraftCandidate> candidates,
                                                  std::span<const DraftOffer> offers,
                                                  const UndraftedStep& step) {
  last_ = step;
  std::vector<DraftShare> shares(offers.size());
  if (when_ == DraftWhen::kAlways) {
    for (size_t i = 0; i < offers.size(); ++i) {
      if (offers[i].tokens > 0) shares[i] = {offers[i].behind, offers[i].tokens};
    }
    KeepWithinStep(offers, shares);
    return shares;
  }
  if (!costs(step.alone).known()) return shares;
  if (!model_.known()) return trial(offers);
  double rate = weigh(candidates, step, 0).rate;
  std::vector<DraftOffer> worth(offers.begin(), offers.end());
  for (size_t i = 0; i < worth.size(); ++i) {
    if (!may_try(candidates[i], offers[i])) worth[i].tokens = 0;
  }
  std::vector<DraftOffer> near = worth;
  for (DraftOffer& offer : near) {
    if (offer.behind > kNear) offer.tokens = 0;
  }
  const Round round = best_round(candidates, near, step);
  if (round.rate > kMargin * rate) {
    rate = round.rate;
    for (size_t i = 0; i < offers.size(); ++i) {
      if (round.drafted[i]) shares[i] = {offers[i].behind, std::min(round.tokens, offers[i].tokens)};
    }
  }
  catch_up(candidates, worth, step, rate, shares);
  KeepWithinStep(offers, shares);
  return shares;
}

double DraftPolicy::saved_ns(const VerifiedDraft& draft) const {
  const StepCost& costs = this->costs(last_.alone);
  const double undrafted_ns = costs.at(last_.rows);
  const double token_ns = undrafted_ns / static_cast<double>(last_.decodes);
  return static_cast<double>(draft.accepted) * token_ns -
         (costs.at(last_.rows + draft.tokens) - undrafted_ns);
}

void DraftPolicy::verified(DraftRates& own, const VerifiedDraft& draft) {
  own.fade(kOwnKept);
  if (draft.source == DraftSource::kModel && draft.tokens > 0) account_.save(saved_ns(draft));
  for (int64_t i = draft.certain; i < std::min(draft.tokens, draft.accepted + 1); ++i) {
    const DraftBasis basis{draft.source, draft.matched + i};
    own.observe(basis, i < draft.accepted, kOwnWindow);
    all_.observe(basis, i < draft.accepted, kAllWindow);
  }
}

}  // namespace shoal
