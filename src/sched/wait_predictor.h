// How long a request will wait, from what steps and answers took lately.
#pragma once

#include <cstdint>
#include <span>

namespace shoal {

/// What a running sequence has to do still.
struct RemainingWork {
  int64_t prompt_rows = 0;  ///< To be computed before it generates.
  int64_t generated = 0;
  int64_t tokens_max = 0;  ///< It generates no more than so many from now on.
};

/// Belongs to one thread; knows no clock.
class WaitPredictor {
 public:
  /// A step came back `elapsed_ns` after it was submitted, with `tokens` generated; before it nothing had come back
  /// for `period_ns`, or nothing was in flight.
  struct Step {
    int64_t rows = 0;
    int64_t tokens = 0;
    int64_t elapsed_ns = 0;
    int64_t period_ns = 0;
  };
  void observe(const Step& step);
  /// An answer ended after so many tokens.
  void observe_answer(int64_t tokens);

  /// Seconds until the first of the running sequences ends and the next that waits can begin; prompts are computed in
  /// the order of `running`. 0 where nothing runs or nothing has been measured.
  double first_end_s(std::span<const RemainingWork> running) const;

  /// Seconds until a further request begins, with so many others, and tokens of their prompts, before it.
  struct Queue {
    int64_t requests = 0;
    int64_t prompt_tokens = 0;
  };
  double queue_s(std::span<const RemainingWork> running, const Queue& queue) const;

 private:
  /// The mean of the recent past.
  struct Mean {
    double weight = 0;
    double sum = 0;
    void add(double value, double of = 1);
    double value() const { return weight > 0 ? sum / weight : 0; }
  };
  double tokens_left(const RemainingWork& work) const;

  Mean token_ns_;  // From one token of a sequence to its next.
  Mean row_ns_;    // Per row of a step that has rows of prompts.
  Mean answer_;    // Tokens.
};

}  // namespace shoal
