// What the answers of OpenAI's API have in common, as JSON.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/answer_writer.h"
#include "api/json.h"
#include "text/tokenizer.h"

namespace shoal {

inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// What all texts of one answer share.
struct AnswerHeader {
  std::string id;  ///< "chatcmpl-..."
  std::string model;
  int64_t created = 0;         ///< Unix seconds.
  bool include_usage = false;  ///< Each chunk then has "usage", null but in the last.
  bool logprobs = false;       ///< Choices show the log-probabilities of their tokens.
};

std::string_view EndReasonName(EndReason reason);

Json UsageJson(const Usage& usage);

/// {"id", "object", "created", "model"}
Json Envelope(const AnswerHeader& header, std::string_view object);

/// The chunk of a stream that has one choice, as a server-sent event. `json`: the choice.
class ChunkFrame {
 public:
  ChunkFrame(const AnswerHeader& header, std::string_view object);
  std::string event(std::string_view choice_json) const;

 private:
  std::string head_;
  std::string tail_;
};

/// The event without choices that stream_options.include_usage asks for.
std::string UsageEvent(const AnswerHeader& header, std::string_view object, const Usage& usage);

/// A token on its own: invalid UTF-8 shows as U+FFFD.
std::string TokenText(const Tokenizer& tokenizer, int32_t id);

/// Log-probabilities as JSON has them: never infinite.
double JsonLogprob(float logprob);

}  // namespace shoal
