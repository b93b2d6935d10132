#include "sched/load_cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

/// A step counts half after some 35 more of its kind; one with both after 7, for it is these that a budget must get
/// right, on a machine that others use, too.
constexpr std::array<double, 3> kDecays = {0.98, 0.9, 0.98};
/// Positions are counted in thousands, and times in microseconds, so that all terms are of one magnitude.
constexpr double kPositions = 1024;
constexpr double kNsPerUnit = 1000;
/// Added to each diagonal element, as a part of it: terms that moved together so far share what they cost.
constexpr double kRidge = 1e-6;
/// A step that took so many times what was expected was disturbed, or is the first of many: it counts as this much,
/// and those that follow raise the estimate soon enough.
constexpr double kOutlier = 4;
constexpr double kTrustedCount = 8;

/// Sum of the positions before each of `rows` rows from `position` on.
int64_t PositionsBefore(int64_t position, int64_t rows) { return rows * position + rows * (rows - 1) / 2; }

/// Solves products * x = times for the terms in `used`; the others are 0. products is positive definite there.
template <size_t N>
std::array<double, N> Solve(std::array<std::array<double, N>, N> a, std::array<double, N> b,
                            const std::array<bool, N>& used) {
  std::array<double, N> x{};
  for (size_t i = 0; i < N; ++i) {
    if (!used[i]) continue;
    for (size_t row = i + 1; row < N; ++row) {
      if (!used[row]) continue;
      const double factor = a[row][i] / a[i][i];
      for (size_t column = i; column < N; ++column) a[row][column] -= factor * a[i][column];
      b[row] -= factor * b[i];
    }
  }
  for (size_t i = N; i-- > 0;) {
    if (!used[i]) continue;
    double rest = b[i];
    for (size_t column = i + 1; column < N; ++column) {
      if (used[column]) rest -= a[i][column] * x[column];
    }
    x[i] = rest / a[i][i];
  }
  return x;
}

}  // namespace

void StepLoad::add_decode(int64_t position, int64_t rows) {
  decode_rows += rows;
  decode_positions += PositionsBefore(position, rows);
}

void StepLoad::add_prefill(int64_t position, int64_t rows) {
  prefill_rows += rows;
  prefill_positions += PositionsBefore(position, rows);
}

LoadCostModel::LoadCostModel(int stages) : stages_(stages) {
  SHOAL_CHECK_GE(stages, 1);  // CheckLimits.
}

double LoadCostModel::time_ns(std::span<const StageTiming> timings) const {
  double sum = 0;
  double slowest = 0;
  for (const StageTiming& one : timings) {
    sum += one.elapsed_ns();
    slowest = std::max(slowest, one.elapsed_ns());
  }
  return std::max(sum, stages_ * slowest);
}

LoadCostModel::Terms LoadCostModel::TermsOf(const StepLoad& load) {
  return {1, static_cast<double>(load.decode_rows), static_cast<double>(load.decode_positions) / kPositions,
          static_cast<double>(load.prefill_rows), static_cast<double>(load.prefill_positions) / kPositions};
}

int LoadCostModel::KindOf(const StepLoad& load) {
  if (load.prefill_rows == 0) return 0;
  return load.decode_rows > 0 ? 1 : 2;
}

void LoadCostModel::observe(const StepLoad& load, double ns) {
  if (ns <= 0) return;  // An engine that reports no per-stage timings.
  Sums& sums = sums_[static_cast<size_t>(KindOf(load))];
  const double decay = kDecays[static_cast<size_t>(KindOf(load))];
  const double expected = cost_ns(load);
  if (sums.count >= kTrustedCount && expected > 0) ns = std::min(ns, kOutlier * expected);
  const Terms terms = TermsOf(load);
  sums.count = sums.count * decay + 1;
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) {
      sums.products[i][j] = sums.products[i][j] * decay + terms[i] * terms[j];
    }
    sums.times[i] = sums.times[i] * decay + terms[i] * ns / kNsPerUnit;
  }
  fit();
}

// More rows and more positions never cost less: a slope that comes out negative is none, and the others are fitted
// without it. Steps with prompts only say what prompts cost until enough steps with both have said it: a budget is
// for those, and what the others say may be old.
void LoadCostModel::fit() {
  std::array<Terms, kTerms> products{};
  Terms times{};
  for (const Sums& sums : sums_) {
    if (&sums == &sums_[2] && sums_[1].count >= kTrustedCount) continue;
    for (size_t i = 0; i < kTerms; ++i) {
      for (size_t j = 0; j < kTerms; ++j) products[i][j] += sums.products[i][j];
      times[i] += sums.times[i];
    }
  }
  std::array<bool, kTerms> used{};
  for (size_t i = 0; i < kTerms; ++i) {
    used[i] = products[i][i] > 0;
    products[i][i] *= 1 + kRidge;
  }
  while (true) {
    coefficients_ = Solve(products, times, used);
    const auto least = std::ranges::min_element(coefficients_.begin() + 1, coefficients_.end());
    if (*least >= 0) return;
    used[static_cast<size_t>(least - coefficients_.begin())] = false;
  }
}

double LoadCostModel::cost_ns(const StepLoad& load) const {
  const Terms terms = TermsOf(load);
  double cost = 0;
  for (size_t i = 0; i < kTerms; ++i) cost += coefficients_[i] * terms[i];
  return std::max(0.0, cost * kNsPerUnit);
}

// r rows at p cost d * r + e * (r * p + r * (r - 1) / 2): a quadratic equation in r.
int64_t LoadCostModel::rows_within(double ns, const StepLoad& load, int64_t position,
                                   int64_t rows_max) const {
  const double left = (ns - cost_ns(load)) / kNsPerUnit;
  if (left <= 0) return 0;
  const double square = coefficients_[4] / kPositions / 2;
  const double linear =
      coefficients_[3] + coefficients_[4] / kPositions * (static_cast<double>(position) - 0.5);
  const double all = static_cast<double>(rows_max);
  if (square * all * all + linear * all <= left) return rows_max;
  const double rows = 2 * left / (linear + std::sqrt(linear * linear + 4 * square * left));
  return std::clamp<int64_t>(static_cast<int64_t>(rows), 0, rows_max);
}

}  // namespace shoal
