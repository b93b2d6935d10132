#include "api/openai/response.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "api/json.h"

namespace shoal {
namespace {

Json UsageJson(const Usage& usage) {
  Json json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
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

std::string_view ChunkObject(const AnswerHeader& header) {
  return header.kind == AnswerKind::kChat ? "chat.completion.chunk" : "text_completion";
}

// A chunk with one choice. `content`: the delta of a chat, or the text of a completion.
std::string ChoiceChunk(const AnswerHeader& header, Json content, Json finish_reason) {
  Json json = Envelope(header, ChunkObject(header));
  Json choice;
  choice["index"] = 0;
  choice[header.kind == AnswerKind::kChat ? "delta" : "text"] = std::move(content);
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = std::move(finish_reason);
  json["choices"] = Json::array({std::move(choice)});
  if (header.include_usage) json["usage"] = nullptr;
  return SseEvent(DumpJson(json));
}

}  // namespace

std::string_view FinishReasonName(FinishReason reason) {
  return reason == FinishReason::kStop ? "stop" : "length";
}

std::string AnswerBody(const AnswerHeader& header, const std::string& text, FinishReason reason,
                       const Usage& usage) {
  if (header.kind == AnswerKind::kGenerate) {
    Json json;
    json["text"] = text;
    json["finish_reason"] = FinishReasonName(reason);
    json["model"] = header.model;
    json["usage"] = UsageJson(usage);
    return DumpJson(json);
  }
  const bool chat = header.kind == AnswerKind::kChat;
  Json json = Envelope(header, chat ? "chat.completion" : "text_completion");
  Json choice;
  choice["index"] = 0;
  if (chat) {
    choice["message"]["role"] = "assistant";
    choice["message"]["content"] = text;
    choice["message"]["refusal"] = nullptr;
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = FinishReasonName(reason);
  json["choices"] = Json::array({std::move(choice)});
  json["usage"] = UsageJson(usage);
  return DumpJson(json);
}

std::string SseEvent(std::string_view data) { return fmt::format("data: {}\n\n", data); }

std::string OpeningChunk(const AnswerHeader& header) {
  if (header.kind != AnswerKind::kChat) return "";
  Json delta;
  delta["role"] = "assistant";
  delta["content"] = "";
  return ChoiceChunk(header, std::move(delta), nullptr);
}

std::string TextChunk(const AnswerHeader& header, const std::string& text) {
  if (header.kind != AnswerKind::kChat) return ChoiceChunk(header, text, nullptr);
  Json delta;
  delta["content"] = text;
  return ChoiceChunk(header, std::move(delta), nullptr);
}

std::string FinishChunk(const AnswerHeader& header, FinishReason reason) {
  Json content = header.kind == AnswerKind::kChat ? Json::object() : Json("");
  return ChoiceChunk(header, std::move(content), FinishReasonName(reason));
}

std::string UsageChunk(const AnswerHeader& header, const Usage& usage) {
  Json json = Envelope(header, ChunkObject(header));
  json["choices"] = Json::array();
  json["usage"] = UsageJson(usage);
  return SseEvent(DumpJson(json));
}

}  // namespace shoal
