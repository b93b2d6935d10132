// What the API gives the scheduler, and what comes back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "exec/step.h"
#include "sched/token_constraint.h"

namespace shoal {

/// Priorities that a request may have: the lower, the earlier. 0 is the default.
inline constexpr int kPriorityMin = -100;
inline constexpr int kPriorityMax = 100;

/// One generation, validated and tokenized: one choice of an answer.
struct GenerationRequest {
  std::string id;               ///< For logs and answers, e.g. "chatcmpl-...".
  std::vector<int32_t> prompt;  ///< At least one id.
  SamplingParams sampling;
  /// Less where the context or the cache ends before. 0: the prompt is computed, and nothing is generated.
  int64_t max_tokens = 0;
  int64_t min_tokens = 0;        ///< No id of eos_ids comes before so many tokens; not under a constraint.
  std::vector<int32_t> eos_ids;  ///< End the text; not part of it.
  bool ignore_eos = false;
  /// Where set, the text matches it: each token is one that it allows, and an end-of-text id, which it allows where
  /// the text may end, ends it in spite of ignore_eos. Shared and never changed: sequences clone it.
  std::shared_ptr<const TokenConstraint> constraint;
  Deadline deadline;  ///< When it passes, the request ends with DeadlineExceeded.
  int priority = 0;   ///< From kPriorityMin to kPriorityMax.
  std::string party;  ///< Whose it is: parties get equal shares. Empty: of all that are not known, as one.
  /// What it is likely to generate, since it did before: verified as any drafts are.
  std::vector<int32_t> expected;
  /// The sink is told how likely each token of the prompt was, but for the first.
  bool score_prompt = false;
  /// kLast or kMean: the sink is told the prompt's embedding.
  Pool pool = Pool::kNone;
};

/// The prompt leaves no room for a token: InvalidArgument in the words that clients of OpenAI's API look for.
/// positions: that a sequence may have.
absl::Status ContextExceeded(int64_t prompt_tokens, int64_t positions);
/// The numbers of such an error.
struct ContextOverflow {
  int64_t prompt_tokens = 0;
  int64_t positions = 0;
};
std::optional<ContextOverflow> ContextOverflowOf(const absl::Status& status);

/// The queue is full: ResourceExhausted. wait_s: predicted seconds until it has a place again.
absl::Status QueueFull(int waiting, double wait_s);
/// The seconds of such an error.
std::optional<double> PredictedWaitOf(const absl::Status& status);

enum class FinishReason { kStop, kLength };

/// Tokens that were looked up ahead of their time (Drafter).
struct DraftTotals {
  int64_t drafted = 0;   ///< Verified by steps.
  int64_t accepted = 0;  ///< Those of them that were right: tokens for which no step of their own was needed.
};

/// A step that came back well, for metrics and traces.
struct StepObservation {
  StepId id;
  int64_t rows = 0;
  int64_t elapsed_ns = 0;  ///< From submit to result.
  std::vector<StageTiming> timings;

  /// What no stage had of it: the hops, and the wait in their queues. Never negative.
  double transit_ns() const {
    double rest = static_cast<double>(elapsed_ns);
    for (const StageTiming& timing : timings)
      rest -= timing.elapsed_ns() + static_cast<double>(timing.mask_wait_ns);
    return rest > 0 ? rest : 0;
  }
};

/// What the API gives the scheduler to be told of one request. Called from the scheduler's thread; must not
/// block. `choice`: the index among the generations that were submitted together.
class EventSink {
 public:
  virtual ~EventSink() = default;
  /// The choice has its place in the caches, and the next step computes its prompt, of which `cached` tokens need no
  /// computing. Once for each choice: not again after a preemption or a loss.
  virtual void on_begin(int /*choice*/, int64_t /*cached*/) {}
  /// A step that the request had a part in came back, before anything else that it brings. Only where
  /// SchedulerOptions::tell_steps says so.
  virtual void on_step(const StepObservation& /*step*/) {}
  /// What one step generated for a choice, in order, never empty. The end-of-text id itself is not passed on. Returns
  /// whether more are wanted: false (a stop string is complete, the client is gone) ends the choice with
  /// on_finish(kStop), and no further token of it is computed.
  virtual bool on_tokens(int choice, std::span<const SampledToken> tokens) = 0;
  /// What was drafted for a choice: once, right before its on_finish. Not where nothing was.
  virtual void on_drafts(int /*choice*/, const DraftTotals& /*drafts*/) {}
  /// The next tokens of the choice's prompt, in order, from its second on, as GenerationRequest::score_prompt asks:
  /// each once, all before the first token that is generated.
  virtual void on_scores(int /*choice*/, std::span<const SampledToken> /*scores*/) {}
  /// The embedding [D] of the choice's prompt.
  virtual void on_embedding(int /*choice*/, std::span<const float> /*embedding*/) {}
  /// The end-of-text id that ends the choice: on_finish(kStop) follows.
  virtual void on_end_token(int /*choice*/, const SampledToken& /*token*/) {}
  /// The end of a choice; nothing follows for it. The request ends with the last of them.
  virtual void on_finish(int choice, FinishReason reason) = 0;
  /// After all of the above that one step brought: time to write it out.
  virtual void on_step_end() {}
  /// About every second, from when the request is in the cluster's hands (queued while it is up, running, or kept over
  /// a loss) until its end.
  virtual void on_tick(Clock::time_point /*now*/) {}
  /// The end of all choices by an error: ResourceExhausted (queue full), InvalidArgument (can never fit), Unavailable
  /// (a node is lost), DeadlineExceeded, Cancelled (shutdown). Nothing follows.
  virtual void on_error(const absl::Status& status) = 0;
};

}  // namespace shoal
