#include "api/openai/response.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "api/answer/stream_writer.h"

namespace shoal {

std::string_view EndReasonName(EndReason reason) {
  switch (reason) {
    case EndReason::kLength:
      return "length";
    case EndReason::kToolCalls:
      return "tool_calls";
    default:
      return "stop";
  }
}

Json UsageJson(const Usage& usage) {
  Json json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  if (usage.drafts.drafted > 0) {
    json["completion_tokens_details"] = {
        {"accepted_prediction_tokens", usage.drafts.accepted},
        {"rejected_prediction_tokens", usage.drafts.drafted - usage.drafts.accepted}};
  }
  return json;
}

Json Envelope(const AnswerHeader& header, std::string_view object) {
  Json json;
  json["id"] = header.id;
  json["object"] = object;
  json["created"] = header.created;
  json["model"] = header.model;
  return json;
}

ChunkFrame::ChunkFrame(const AnswerHeader& header, std::string_view object) {
  head_ = DumpJson(Envelope(header, object));
  head_.pop_back();  // '}'
  head_ = "data: " + head_ + R"(,"choices":[)";
  tail_ = header.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n";
}

std::string ChunkFrame::event(std::string_view choice_json) const {
  return fmt::format("{}{}{}", head_, choice_json, tail_);
}

std::string UsageEvent(const AnswerHeader& header, std::string_view object, const Usage& usage) {
  Json json = Envelope(header, object);
  json["choices"] = Json::array();
  json["usage"] = UsageJson(usage);
  return SseEvent(DumpJson(json));
}

std::string TokenText(const Tokenizer& tokenizer, int32_t id) {
  auto text = tokenizer.decode(std::array{id}, /*skip_special=*/false);
  return text.ok() ? *std::move(text) : "";
}

double JsonLogprob(float logprob) { return std::max(-9999.0, static_cast<double>(logprob)); }

}  // namespace shoal
