// One batch or several: into how many steps the decodes of a pipeline are best cut, from what its stages
// took.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exec/step.h"

namespace shoal {

/// A stage takes about a + b * rows for a decode step: a to read its weights, b for a row's arithmetic. Cut
/// into m steps, R decodes come back every
///   m = 1:  the sum of all stages' times for R rows (one works while the others wait);
///   m > 1:  the longer of that sum for R / m rows and m times the slowest stage.
/// So equal stages gain by several steps, while a pipeline with one slow stage, which reads its weights once
/// per step, gains by one. Stages on one machine slow each other down, hence a line of its own for steps that
/// ran alone. Belongs to one thread; knows no clock.
class PipelineModel {
 public:
  /// stages >= 1.
  explicit PipelineModel(int stages);

  /// A step of `rows` decodes came back. alone: no other step was in flight while it was.
  void observe(int64_t rows, std::span<const StageTiming> timings, bool alone);

  /// Steps to cut `rows` decodes into: 1 to stages. While one of the two kinds has not been seen for long it
  /// is tried for a few steps.
  int choose(int64_t rows);

  /// Nanoseconds in which R = `rows` decodes come back as `steps` steps; 0 where nothing is known.
  double period_ns(int64_t rows, int steps) const;

 private:
  /// Least squares over the recent past.
  struct Line {
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    void add(double rows, double ns);
    double at(double rows) const;
  };
  struct Lines {
    std::vector<Line> stages;
    int64_t seen_at = -1;  // The decision at which a step of this kind came back last.
  };
  const Lines& lines_for(int steps) const;

  int stages_;
  Lines alone_;
  Lines together_;
  int64_t decisions_ = 0;
  int64_t trial_until_ = 0;
  int trial_steps_ = 0;
};

}  // namespace shoal
