#include "api/openai/answer_sink.h"

#include "base/log.h"
#include "base/status.h"

namespace shoal {
namespace {

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

}  // namespace

void SendError(ResponseWriter& writer, const ApiError& error) {
  HttpResponse response{.status = error.status, .body = ErrorBody(error)};
  if (error.status == 429) response.headers.emplace_back("Retry-After", "1");
  if (error.status == 503) response.headers.emplace_back("Retry-After", "5");
  writer.send(std::move(response));
}

AnswerSink::AnswerSink(AnswerPlan plan, const Tokenizer& tokenizer, Metrics& metrics,
                       std::shared_ptr<ResponseWriter> writer)
    : plan_(std::move(plan)),
      metrics_(metrics),
      writer_(std::move(writer)),
      decoder_(tokenizer, /*skip_special=*/true),
      stop_(plan_.stop),
      started_ns_(NowNs()) {}

bool AnswerSink::on_token(int32_t token) {
  ++tokens_;
  time_token();
  auto piece = decoder_.push(token);
  if (!piece.ok()) {
    failure_ = piece.status();
    return false;
  }
  return emit(stop_.push(*piece)) && !stop_.stopped();
}

void AnswerSink::time_token() {
  const int64_t now = NowNs();
  metrics_.count_generated_token();
  if (tokens_ == 1) {
    metrics_.observe_first_token(Seconds(now - started_ns_));
  } else {
    metrics_.observe_between_tokens(Seconds(now - last_token_ns_));
  }
  last_token_ns_ = now;
}

// False once nobody listens.
bool AnswerSink::emit(const std::string& text) {
  if (!plan_.stream) {
    text_ += text;
    return !writer_->gone();
  }
  begin();
  return text.empty() ? !writer_->gone() : writer_->write(TextChunk(plan_.header, text));
}

void AnswerSink::begin() {
  if (begun_) return;
  begun_ = true;
  writer_->begin_stream(200, "text/event-stream");
  writer_->write(OpeningChunk(plan_.header));
}

void AnswerSink::on_finish(FinishReason reason) {
  if (failure_.ok()) {
    auto rest = decoder_.flush();
    if (rest.ok()) {
      // A stop string may end in the very last characters.
      emit(stop_.push(*rest));
      emit(stop_.flush());
    } else {
      failure_ = rest.status();
    }
  }
  if (!failure_.ok()) return on_error(Internal("the tokens do not decode: {}", Message(failure_)));
  metrics_.observe_request(Seconds(NowNs() - started_ns_));
  if (stop_.stopped()) reason = FinishReason::kStop;
  const Usage usage{.prompt_tokens = plan_.prompt_tokens, .completion_tokens = tokens_};
  if (!plan_.stream) {
    return writer_->send({.body = AnswerBody(plan_.header, text_, reason, usage)});
  }
  writer_->write(FinishChunk(plan_.header, reason));
  if (plan_.header.include_usage) writer_->write(UsageChunk(plan_.header, usage));
  writer_->write(std::string(kSseDone));
  writer_->end_stream();
}

void AnswerSink::on_error(const absl::Status& status) {
  metrics_.observe_request(Seconds(NowNs() - started_ns_));
  if (status.code() != absl::StatusCode::kCancelled) {
    LogWarning("{}: ended after {} tokens: {}", plan_.header.id, tokens_, ToString(status));
  }
  const ApiError error = FromStatus(status);
  if (!begun_) return SendError(*writer_, error);
  writer_->write(SseEvent(ErrorBody(error)));
  writer_->end_stream();
}

}  // namespace shoal
