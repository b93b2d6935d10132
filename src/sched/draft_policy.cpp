#include "sched/draft_policy.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace shoal {
namespace {

/// Drafts must promise so much more tokens per time: estimates are noisy, and a step without drafts is what is known
/// best.
constexpr double kMargin = 1.02;
/// Sequences of the step that have no draft wait so much longer for their token at most.
constexpr double kOthersWait = 1.1;
/// What is believed of a match before anything was seen, by its kind, and how many seen tokens that is worth.
constexpr double kPriors[] = {0.3, 0.4, 0.5, 0.65, 0.8};
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
/// Below 1, so that a longer draft is always less sure than a shorter one.
constexpr double kSurest = 0.98;

}  // namespace

size_t DraftRates::kind_of(int64_t matched) {
  constexpr int64_t kBegins[] = {4, 6, 9, 16};
  return static_cast<size_t>(std::ranges::upper_bound(kBegins, matched) - kBegins);
}

double DraftRates::prior(int64_t matched) { return kPriors[kind_of(matched)]; }

void DraftRates::observe(int64_t matched, bool right, double window) {
  Seen& seen = seen_[kind_of(matched)];
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

void DraftPolicy::reset() {
  alone_ = {};
  together_ = {};
}

void DraftPolicy::observe_step(int64_t rows, double ns, bool alone) {
  (alone ? alone_ : together_).observe(rows, ns);
  all_.fade(kAllKept);
}

const StepCost& DraftPolicy::costs(bool alone) const {
  const StepCost& own = alone ? alone_ : together_;
  return own.known() ? own : alone ? together_ : alone_;
}

double DraftPolicy::likelihood(const DraftRates& own, int64_t matched) const {
  const DraftRates::Seen& mine = own.of(matched);
  const DraftRates::Seen& all = all_.of(matched);
  const double others = (all.right + kPriorWeight * DraftRates::prior(matched)) / (all.tried + kPriorWeight);
  return std::min(kSurest, (mine.right + kOthersWeight * others) / (mine.tried + kOthersWeight));
}

std::vector<int64_t> DraftPolicy::choose(std::span<const DraftCandidate> candidates,
                                         const UndraftedStep& step) const {
  std::vector<int64_t> counts(candidates.size());
  const StepCost& costs = this->costs(step.alone);
  if (!costs.known()) return counts;
  struct Row {
    double gain = 0;  // Probability that it and all drafted before it are right: a token more.
    size_t candidate = 0;
  };
  std::vector<Row> rows;
  int64_t drafted = 0;  // Candidates that have a draft.
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].tokens > 0) ++drafted;
    double gain = 1;
    for (int64_t j = 0; j < candidates[i].tokens; ++j) {
      gain *= likelihood(*candidates[i].rates, candidates[i].matched + j);
      if (gain < kGainMin) break;
      rows.push_back({gain, i});
    }
  }
  const auto most = std::min(std::ssize(rows), std::min(step.draft_rows, kDraftRowsMax));
  std::ranges::partial_sort(rows, rows.begin() + most, std::ranges::greater(), &Row::gain);
  const double undrafted_ns = costs.at(step.rows);
  const double most_ns =
      drafted < step.decodes ? kOthersWait * undrafted_ns : std::numeric_limits<double>::infinity();
  auto tokens = static_cast<double>(step.decodes);
  double best = kMargin * tokens / undrafted_ns;
  int64_t taken = 0;
  for (int64_t n = 1; n <= most; ++n) {
    tokens += rows[static_cast<size_t>(n - 1)].gain;
    const double ns = costs.at(step.rows + n);
    if (ns > most_ns) break;
    const double rate = tokens / ns;
    if (rate <= best) continue;
    best = rate;
    taken = n;
  }
  for (int64_t n = 0; n < taken; ++n) ++counts[rows[static_cast<size_t>(n)].candidate];
  return counts;
}

void DraftPolicy::verified(DraftRates& own, const VerifiedDraft& draft) {
  own.fade(kOwnKept);
  for (int64_t i = 0; i < std::min(draft.tokens, draft.accepted + 1); ++i) {
    own.observe(draft.matched + i, i < draft.accepted, kOwnWindow);
    all_.observe(draft.matched + i, i < draft.accepted, kAllWindow);
  }
}

}  // namespace shoal
