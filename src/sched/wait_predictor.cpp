#include "sched/wait_predictor.h"

#include <algorithm>
#include <limits>

namespace shoal {
namespace {

constexpr double kDecay = 0.95;
/// An answer that is longer than recent ones will have so much of their length more.
constexpr double kOverdue = 0.25;
constexpr double kSecond = 1e9;

}  // namespace

void WaitPredictor::Mean::add(double value, double of) {
  weight = weight * kDecay + of;
  sum = sum * kDecay + value;
}

void WaitPredictor::observe(const Step& step) {
  if (step.tokens > 0) token_ns_.add(static_cast<double>(step.elapsed_ns));
  const int64_t prompt_rows = step.rows - step.tokens;
  if (prompt_rows > 0) row_ns_.add(static_cast<double>(step.period_ns), static_cast<double>(prompt_rows));
}

void WaitPredictor::observe_answer(int64_t tokens) { answer_.add(static_cast<double>(tokens)); }

double WaitPredictor::tokens_left(const RemainingWork& work) const {
  const auto most = static_cast<double>(work.tokens_max);
  if (answer_.weight == 0) return most;
  const double usual = answer_.value();
  return std::min(most, std::max(usual - static_cast<double>(work.generated), kOverdue * usual));
}

double WaitPredictor::first_end_s(std::span<const RemainingWork> running) const {
  double first_ns = std::numeric_limits<double>::infinity();
  double prompts_ns = 0;
  for (const RemainingWork& work : running) {
    double ns = tokens_left(work) * token_ns_.value();
    if (work.prompt_rows > 0) {
      prompts_ns += static_cast<double>(work.prompt_rows) * row_ns_.value();
      ns += prompts_ns;
    }
    first_ns = std::min(first_ns, ns);
  }
  return running.empty() ? 0 : first_ns / kSecond;
}

// As many answers are computed at once as now: each of them makes room for one that waits.
double WaitPredictor::queue_s(std::span<const RemainingWork> running, const Queue& queue) const {
  if (queue.requests == 0) return 0;
  const double prompts_ns = static_cast<double>(queue.prompt_tokens) * row_ns_.value();
  const double answers_ns = static_cast<double>(queue.requests) * answer_.value() * token_ns_.value() /
                            static_cast<double>(std::max<size_t>(running.size(), 1));
  return first_end_s(running) + (prompts_ns + answers_ns) / kSecond;
}

}  // namespace shoal
