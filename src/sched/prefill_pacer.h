// How many rows of prompts a step gets, and whose: within the step's rows, and within the time that running streams
// may be kept waiting.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "exec/step.h"
#include "sched/load_cost.h"

namespace shoal {

/// Rows of prompts that one step may have still.
class PrefillBudget {
 public:
  /// `rows` at most; no bound on time.
  explicit PrefillBudget(int64_t rows) : rows_(rows) {}
  /// And no more than keep a step that has `load` already within `ns`, but at least `rows_min`. The model must outlive
  /// the budget.
  PrefillBudget(int64_t rows, int64_t rows_min, const LoadCostModel& model, StepLoad load, double ns)
      : rows_(rows), rows_min_(rows_min), model_(&model), load_(load), ns_(ns) {}

  /// Rows that a prompt at `position` may have.
  int64_t rows_at(int64_t position) const;
  void take(int64_t position, int64_t rows);

 private:
  int64_t rows_;
  int64_t rows_min_ = 0;
  const LoadCostModel* model_ = nullptr;
  StepLoad load_;
  double ns_ = 0;
};

/// A prompt that is to be computed.
struct PrefillWish {
  std::string_view party;  ///< Whose it is.
  int priority = 0;        ///< Lower ones are served first.
  int64_t position = 0;
  int64_t rows = 0;  ///< Left to compute, > 0.
};

/// Rows for each wish. Wishes of a lower priority number come first; within one, parties get equal shares of what is
/// left, and what one party does not need goes to the others; within a party it is first come, first served, in the
/// order of `wishes`.
std::vector<int64_t> SharePrefill(std::span<const PrefillWish> wishes, PrefillBudget& budget);

/// Holds steps to a target time between the tokens of a stream. Source: Agrawal et al. 2024, arXiv:2403.02310, whose
/// budget is a number of tokens; here it is a time, and what fits into it is learned. Belongs to one thread.
class PrefillPacer {
 public:
  /// target: 0 for none. stages >= 1.
  PrefillPacer(Duration target, int stages)
      : target_ns_(static_cast<double>(target.count())), model_(stages) {}

  /// Of a step that has the decodes of `load` and `rows` left. decoding: sequences decode, in this step or another.
  PrefillBudget budget(int64_t rows, const StepLoad& load, bool decoding) const;

  /// A step came back that was composed while sequences decoded, or not.
  void observe(const StepLoad& load, std::span<const StageTiming> timings, bool decoding);

  const LoadCostModel& model() const { return model_; }

 private:
  double target_ns_;
  LoadCostModel model_;
  int64_t rows_reached_ = 0;  // Of a step beside decodes that kept to the target.
};

}  // namespace shoal
