// What a step costs, learned from those that came back: how many rows of prompts fit into a given time.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "exec/step.h"

namespace shoal {

/// What a step computes. Each row attends to all positions before it, which is what positions count.
struct StepLoad {
  int64_t decode_rows = 0;
  int64_t decode_positions = 0;   ///< Sum over those rows.
  int64_t prefill_rows = 0;       ///< Of prompts.
  int64_t prefill_positions = 0;  ///< Sum over those rows.

  /// Rows of one sequence, the first of them at `position`.
  void add_decode(int64_t position, int64_t rows);
  void add_prefill(int64_t position, int64_t rows);
};

/// A step takes about
///   a + b * decode_rows + c * decode_positions + d * prefill_rows + e * prefill_positions,
/// fitted by least squares in which older steps count less and less. Steps with decodes only, with both, and with
/// prompts only are forgotten each for itself: an hour without prompts leaves what a prompt costs as it was, and those
/// with prompts only count until there are enough with both. Of a
/// pipeline of S stages the time is that in which a decode comes back while all stages work: the longer of the sum of
/// its stages' times and of S times the slowest. Belongs to one thread; knows no clock.
class LoadCostModel {
 public:
  /// stages >= 1.
  explicit LoadCostModel(int stages);

  /// The time that the model is about, in nanoseconds; 0 where the engine reports no timings.
  double time_ns(std::span<const StageTiming> timings) const;

  /// A step of this load took so long.
  void observe(const StepLoad& load, double ns);

  /// Whether a step with rows of prompts has been seen.
  bool knows_prefill() const { return sums_[1].count > 0 || sums_[2].count > 0; }

  /// Nanoseconds; 0 where nothing is known.
  double cost_ns(const StepLoad& load) const;

  /// The most rows, up to `rows_max`, of a prompt at `position` that beside `load` keep a step within `ns`.
  int64_t rows_within(double ns, const StepLoad& load, int64_t position, int64_t rows_max) const;

 private:
  static constexpr int kTerms = 5;
  using Terms = std::array<double, kTerms>;

  /// Of one kind of step: what the normal equations need.
  struct Sums {
    double count = 0;
    std::array<Terms, kTerms> products{};  // Of terms with terms,
    Terms times{};                         // and with the measured time.
  };
  static Terms TermsOf(const StepLoad& load);
  static int KindOf(const StepLoad& load);
  void fit();

  int stages_;
  std::array<Sums, 3> sums_;
  Terms coefficients_{};
};

}  // namespace shoal
