#include "api/answer/answer_sink.h"

#include <utility>

#include "api/api_error.h"
#include "base/log.h"
#include "base/log_format.h"
#include "base/status.h"

namespace shoal {
namespace {

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }
double SecondsSince(Clock::time_point start) { return SecondsOf(Clock::now() - start); }

}  // namespace

AnswerSink::AnswerSink(AnswerPlan plan, const Tokenizer& tokenizer, Metrics& metrics,
                       std::unique_ptr<AnswerWriter> writer)
    : plan_(std::move(plan)), metrics_(metrics), writer_(std::move(writer)), open_(plan_.choices) {
  choices_.reserve(static_cast<size_t>(plan_.choices));
  for (int i = 0; i < plan_.choices; ++i) choices_.push_back({ChoiceChain(tokenizer, plan_.chain)});
  usage_.prompt_tokens = plan_.prompt_tokens;
}

void AnswerSink::on_begin(int choice, int64_t cached) {
  // Choices of one prompt share it; what the first of them found says how much was in the cache.
  const bool first = choice % plan_.choices_per_prompt == 0;
  if (first) usage_.cached_tokens += cached;
  if (plan_.trace != nullptr) plan_.trace->begin(first ? cached : 0);
  admit();
}

void AnswerSink::on_step(const StepObservation& step) {
  if (plan_.trace != nullptr && !over_) plan_.trace->step(step);
}

void AnswerSink::admit() {
  if (std::exchange(admitted_, true)) return;
  writer_->admitted();
  written_ = Clock::now();
}

bool AnswerSink::on_tokens(int choice, std::span<const SampledToken> tokens) {
  if (over_) return false;  // Another choice has failed.
  Choice& one = choices_.at(static_cast<size_t>(choice));
  const int64_t before = one.chain.tokens();
  OutputEvents events;
  one.failure = one.chain.push(tokens, events);
  if (!one.failure.ok()) return false;
  const auto used = static_cast<size_t>(one.chain.tokens() - before);
  if (plan_.note) plan_.note(choice, before, tokens.first(used));
  time_tokens(one, used);
  if (plan_.trace != nullptr) plan_.trace->tokens(std::ssize(tokens.first(used)));
  writer_->piece({.choice = choice, .events = events, .sampled = tokens.first(used)});
  return !one.chain.stopped() && !writer_->gone();
}

void AnswerSink::time_tokens(Choice& choice, size_t count) {
  const int64_t now = NowNs();
  // Several tokens of one step took equal parts of its time.
  const double each = Seconds(now - choice.last_token_ns) / static_cast<double>(count);
  if (choice.last_token_ns == 0) metrics_.observe_first_token(SecondsSince(started_));
  for (size_t i = 0; i < count; ++i) {
    metrics_.count_generated_token();
    if (choice.last_token_ns != 0) metrics_.observe_between_tokens(each);
  }
  choice.last_token_ns = now;
}

void AnswerSink::on_drafts(int /*choice*/, const DraftTotals& drafts) {
  usage_.drafts.drafted += drafts.drafted;
  usage_.drafts.accepted += drafts.accepted;
}

void AnswerSink::on_scores(int choice, std::span<const SampledToken> scores) {
  if (!over_) writer_->prompt_scores(choice, scores);
}

void AnswerSink::on_end_token(int choice, const SampledToken& token) {
  if (!over_) writer_->end_token(choice, token);
}

void AnswerSink::on_finish(int choice, FinishReason reason) {
  if (over_) return;
  end(choices_.at(static_cast<size_t>(choice)), choice, reason);
  if (over_ || --open_ > 0) return;
  over_ = true;
  metrics_.observe_request(SecondsSince(started_));
  if (plan_.trace != nullptr) plan_.trace->end(absl::OkStatus());
  writer_->finish(usage_);
}

void AnswerSink::end(Choice& choice, int index, FinishReason reason) {
  OutputEvents events;
  if (choice.failure.ok()) choice.failure = choice.chain.finish(events);
  if (!choice.failure.ok()) return fail(Internal("the tokens do not decode: {}", Message(choice.failure)));
  ChoiceEnd end{.stop_string = choice.chain.stop_string(), .tokens = choice.chain.tokens()};
  if (!choice.chain.stopped()) {
    if (reason == FinishReason::kLength) end.reason = EndReason::kLength;
    if (reason == FinishReason::kStop && choice.chain.calls() > 0) end.reason = EndReason::kToolCalls;
  }
  usage_.completion_tokens += end.tokens;
  writer_->end_choice(index, events, end);
}

void AnswerSink::on_step_end() {
  if (!over_ && writer_->flush()) written_ = Clock::now();
}

void AnswerSink::on_tick(Clock::time_point now) {
  if (over_ || now - written_ < kKeepAliveInterval) return;
  if (!admitted_) return admit();
  writer_->keep_alive();
  written_ = now;
}

void AnswerSink::on_error(const absl::Status& status) {
  if (!over_) fail(status);
}

void AnswerSink::fail(const absl::Status& status) {
  over_ = true;
  metrics_.observe_request(SecondsSince(started_));
  if (status.code() != absl::StatusCode::kCancelled) {
    const LogRequest named(plan_.request);
    LogWarning("{}: ended after {} tokens: {}", plan_.id, usage_.completion_tokens, ToString(status));
  }
  const ApiError error = FromStatus(status);
  metrics_.count_error(error.code);
  if (plan_.trace != nullptr) plan_.trace->end(status);
  writer_->error(error);
}

}  // namespace shoal
