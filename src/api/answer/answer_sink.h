// Between the scheduler and one client: runs the chain of every choice, keeps the time, and hands the pieces to
// the answer's writer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "api/answer/answer_writer.h"
#include "api/answer/choice_chain.h"
#include "api/metrics.h"
#include "api/trace/request_trace.h"
#include "base/clock.h"
#include "sched/request.h"

namespace shoal {

struct AnswerPlan {
  std::string id;  ///< For the log.
  int choices = 1;
  int choices_per_prompt = 1;  ///< Choices in a row that have one prompt.
  ChainPlan chain = {};        ///< Of each choice.
  int64_t prompt_tokens = 0;   ///< Of all prompts.
  /// Told the tokens of each choice as they come, the first of them the choice's token number `at`. May be empty.
  std::function<void(int choice, int64_t at, std::span<const SampledToken> tokens)> note = {};
  std::string request = {};                       ///< X-Request-Id, for the log.
  std::shared_ptr<RequestTrace> trace = nullptr;  ///< nullptr: it is not traced.
};

/// A stream in which nothing was written for so long gets a comment.
inline constexpr Duration kKeepAliveInterval = std::chrono::seconds(5);

/// Called from the scheduler's thread only. Answers exactly once. A stream begins when the request is admitted:
/// its first choice has its place in the caches, or the request has waited for that for kKeepAliveInterval. What
/// fails before has a proper status line; what fails later is an event with the error.
class AnswerSink : public EventSink {
 public:
  /// `tokenizer` and `metrics` must outlive it.
  AnswerSink(AnswerPlan plan, const Tokenizer& tokenizer, Metrics& metrics,
             std::unique_ptr<AnswerWriter> writer);

  void on_begin(int choice, int64_t cached) override;
  void on_step(const StepObservation& step) override;
  bool on_tokens(int choice, std::span<const SampledToken> tokens) override;
  void on_drafts(int choice, const DraftTotals& drafts) override;
  void on_scores(int choice, std::span<const SampledToken> scores) override;
  void on_end_token(int choice, const SampledToken& token) override;
  void on_finish(int choice, FinishReason reason) override;
  void on_step_end() override;
  void on_tick(Clock::time_point now) override;
  void on_error(const absl::Status& status) override;

 private:
  struct Choice {
    ChoiceChain chain;
    absl::Status failure =
        absl::OkStatus();  // Our own: ends the answer when the scheduler says that it is over.
    int64_t last_token_ns = 0;
  };

  void admit();
  void time_tokens(Choice& choice, size_t count);
  void end(Choice& choice, int index, FinishReason reason);
  void fail(const absl::Status& status);

  const AnswerPlan plan_;
  Metrics& metrics_;
  const std::unique_ptr<AnswerWriter> writer_;
  std::vector<Choice> choices_;
  Usage usage_;
  int open_;  // Choices that have not ended.
  bool admitted_ = false;
  bool over_ = false;
  const Clock::time_point started_ = Clock::now();
  Clock::time_point written_ = started_;
};

}  // namespace shoal
