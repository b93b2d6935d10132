// Between the scheduler and one client: tokens become text, text becomes an answer or a stream of chunks.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/api_error.h"
#include "api/http/server.h"
#include "api/metrics.h"
#include "api/openai/response.h"
#include "api/openai/stop_matcher.h"
#include "base/clock.h"
#include "sched/request.h"
#include "text/stream_decoder.h"

namespace shoal {

struct AnswerPlan {
  AnswerHeader header;
  bool stream = false;
  std::vector<std::string> stop;
  int64_t prompt_tokens = 0;
};

/// Called from the scheduler's thread only. Answers exactly once. A stream begins with its first token, so
/// that what fails before has a proper status line; what fails later is an event with the error.
class AnswerSink : public EventSink {
 public:
  /// `tokenizer` and `metrics` must outlive it.
  AnswerSink(AnswerPlan plan, const Tokenizer& tokenizer, Metrics& metrics,
             std::shared_ptr<ResponseWriter> writer);

  bool on_token(int32_t token) override;
  void on_finish(FinishReason reason) override;
  void on_error(const absl::Status& status) override;

 private:
  bool emit(const std::string& text);
  void begin();
  void time_token();

  const AnswerPlan plan_;
  Metrics& metrics_;
  const std::shared_ptr<ResponseWriter> writer_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  absl::Status
      failure_;  // Our own, found on the way: it ends the answer when the scheduler says that it is over.
  std::string text_;  // All of it, where the answer is not streamed.
  bool begun_ = false;
  int64_t tokens_ = 0;
  const int64_t started_ns_;
  int64_t last_token_ns_ = 0;
};

/// Answers with the error; a 429 or 503 tells when to try again.
void SendError(ResponseWriter& writer, const ApiError& error);

}  // namespace shoal
