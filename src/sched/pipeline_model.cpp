#include "sched/pipeline_model.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace shoal {
namespace {

/// A step counts half after some 70 more: soon enough for a node whose load changes, long enough against
/// noise.
constexpr double kDecay = 0.99;
/// Decisions after which the other kind is tried again, and for how many: 1.5 % of the steps at most.
constexpr int64_t kTrialEvery = 512;
constexpr int64_t kTrialLength = 8;
/// One batch must be better by so much: what travels between the stages is not in the model, and several
/// steps in flight hide it.
constexpr double kMargin = 0.97;

}  // namespace

void PipelineModel::Line::add(double rows, double ns) {
  for (double* sum : {&n, &x, &y, &xx, &xy}) *sum *= kDecay;
  n += 1;
  x += rows;
  y += ns;
  xx += rows * rows;
  xy += rows * ns;
}

double PipelineModel::Line::at(double rows) const {
  if (n <= 0) return 0;
  const double mean_x = x / n;
  const double mean_y = y / n;
  const double variance = xx / n - mean_x * mean_x;
  // Where the rows hardly varied, weights are what a step pays for.
  if (variance < 1e-3 * mean_x * mean_x) return mean_y;
  const double slope = std::max(0.0, (xy / n - mean_x * mean_y) / variance);
  return std::max(0.0, mean_y + slope * (rows - mean_x));
}

PipelineModel::PipelineModel(int stages) : stages_(stages) {
  SHOAL_CHECK_GE(stages, 1);  // CheckLimits.
  alone_.stages.resize(static_cast<size_t>(stages));
  together_.stages.resize(static_cast<size_t>(stages));
}

void PipelineModel::observe(int64_t rows, std::span<const StageTiming> timings, bool alone) {
  if (static_cast<int>(timings.size()) != stages_) return;  // An engine that does not tell.
  Lines& lines = alone ? alone_ : together_;
  for (size_t i = 0; i < timings.size(); ++i) {
    lines.stages[i].add(static_cast<double>(rows), timings[i].elapsed_ns());
  }
  lines.seen_at = decisions_;
}

const PipelineModel::Lines& PipelineModel::lines_for(int steps) const {
  const Lines& own = steps == 1 ? alone_ : together_;
  return own.seen_at >= 0 ? own : steps == 1 ? together_ : alone_;
}

double PipelineModel::period_ns(int64_t rows, int steps) const {
  const Lines& lines = lines_for(steps);
  double sum = 0;
  double slowest = 0;
  for (const Line& line : lines.stages) {
    const double ns = line.at(static_cast<double>(rows) / steps);
    sum += ns;
    slowest = std::max(slowest, ns);
  }
  return steps == 1 ? sum : std::max(sum, steps * slowest);
}

int PipelineModel::choose(int64_t rows) {
  const int most = static_cast<int>(std::clamp<int64_t>(rows, 1, stages_));
  if (most == 1) return 1;
  ++decisions_;
  if (decisions_ < trial_until_) return std::min(trial_steps_, most);
  if (alone_.seen_at < 0 && together_.seen_at < 0) return most;
  int best = most;
  double best_ns = period_ns(rows, most);
  for (int steps = most - 1; steps >= 1; --steps) {
    const double ns = period_ns(rows, steps);
    if (ns < kMargin * best_ns) {
      best = steps;
      best_ns = ns;
    }
  }
  const Lines& other = best == 1 ? together_ : alone_;
  if (decisions_ - std::max<int64_t>(other.seen_at, 0) >= kTrialEvery) {
    trial_steps_ = best == 1 ? most : 1;
    trial_until_ = decisions_ + kTrialLength;
    return trial_steps_;
  }
  return best;
}

}  // namespace shoal
