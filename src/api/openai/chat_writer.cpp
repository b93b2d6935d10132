#include "api/openai/chat_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/stream_writer.h"
#include "api/answer/whole_writer.h"

namespace shoal {
namespace {

constexpr std::string_view kChunkObject = "chat.completion.chunk";

Json TokenJson(const Tokenizer& tokenizer, int32_t id, float logprob) {
  Json json;
  json["token"] = TokenText(tokenizer, id);
  json["logprob"] = JsonLogprob(logprob);
  json["bytes"] = nullptr;
  const auto bytes = tokenizer.token_bytes(id);
  if (bytes.ok()) {
    json["bytes"] = Json::array();
    for (const char byte : *bytes) json["bytes"].push_back(static_cast<unsigned char>(byte));
  }
  return json;
}

Json LogprobsJson(const Tokenizer& tokenizer, std::span<const SampledToken> sampled) {
  Json content = Json::array();
  for (const SampledToken& token : sampled) {
    Json one = TokenJson(tokenizer, token.id, token.logprob);
    one["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : token.top) {
      one["top_logprobs"].push_back(TokenJson(tokenizer, top.id, top.logprob));
    }
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

/// The delta of a chunk; "" for an event that needs none.
std::string Delta(const OutputEvent& event) {
  switch (event.kind) {
    case OutputEvent::Kind::kContent:
      return fmt::format(R"({{"content":{}}})", Quoted(event.text));
    case OutputEvent::Kind::kReasoning:
      return fmt::format(R"({{"reasoning_content":{0},"reasoning":{0}}})", Quoted(event.text));
    case OutputEvent::Kind::kCallBegin:
      return fmt::format(
          R"({{"tool_calls":[{{"index":{},"id":{},"type":"function","function":{{"name":{},"arguments":""}}}}]}})",
          event.call, Quoted(event.call_id), Quoted(event.name));
    case OutputEvent::Kind::kArguments:
      return fmt::format(R"({{"tool_calls":[{{"index":{},"function":{{"arguments":{}}}}}]}})", event.call,
                         Quoted(event.text));
    default:
      return "";
  }
}

class Stream final : public StreamWriter {
 public:
  Stream(ChatFormat format, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)),
        format_(std::move(format)),
        frame_(format_.header, kChunkObject),
        unshown_(static_cast<size_t>(format_.choices)) {}

  void piece(const AnswerPiece& piece) override {
    if (format_.header.logprobs) {
      auto& unshown = unshown_.at(static_cast<size_t>(piece.choice));
      unshown.insert(unshown.end(), piece.sampled.begin(), piece.sampled.end());
    }
    for (const OutputEvent& event : piece.events) put_event(piece.choice, event);
  }
  void end_choice(int choice, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    for (const OutputEvent& event : events) put_event(choice, event);
    put_choice(choice, "{}", fmt::format("\"{}\"", EndReasonName(end.reason)));
  }

 private:
  void put_opening() override {
    for (int i = 0; i < format_.choices; ++i) put_choice(i, R"({"role":"assistant","content":""})", "null");
  }
  void put_closing(const Usage& usage) override {
    if (format_.header.include_usage) put(UsageEvent(format_.header, kChunkObject, usage));
    put(kSseDone);
  }
  void put_event(int choice, const OutputEvent& event) {
    const std::string delta = Delta(event);
    if (!delta.empty()) put_choice(choice, delta, "null");
  }
  void put_choice(int choice, std::string_view delta, std::string_view finish_reason) {
    auto& unshown = unshown_.at(static_cast<size_t>(choice));
    const std::string logprobs =
        unshown.empty() ? "null" : DumpJson(LogprobsJson(*format_.tokenizer, std::exchange(unshown, {})));
    put(frame_.event(fmt::format(R"({{"index":{},"delta":{},"logprobs":{},"finish_reason":{}}})", choice,
                                 delta, logprobs, finish_reason)));
  }

  const ChatFormat format_;
  const ChunkFrame frame_;
  std::vector<std::vector<SampledToken>> unshown_;  // Of each choice: tokens whose log-probabilities are due.
};

Json MessageJson(const AnsweredChoice& choice) {
  const std::vector<AnsweredCall> calls = choice.calls();
  Json message;
  message["role"] = "assistant";
  const std::string content = choice.content();
  message["content"] = content.empty() && !calls.empty() ? Json(nullptr) : Json(content);
  const std::string reasoning = choice.reasoning();
  if (!reasoning.empty()) {  // Clients disagree on the name.
    message["reasoning_content"] = reasoning;
    message["reasoning"] = reasoning;
  }
  message["refusal"] = nullptr;
  for (const AnsweredCall& call : calls) {
    Json one;
    one["id"] = call.id;
    one["type"] = "function";
    one["function"]["name"] = call.name;
    one["function"]["arguments"] = call.arguments;
    message["tool_calls"].push_back(std::move(one));
  }
  return message;
}

std::string Body(const ChatFormat& format, const std::vector<AnsweredChoice>& choices, const Usage& usage) {
  Json json = Envelope(format.header, "chat.completion");
  json["choices"] = Json::array();
  for (const AnsweredChoice& choice : choices) {
    Json one;
    one["index"] = json["choices"].size();
    one["message"] = MessageJson(choice);
    one["logprobs"] =
        format.header.logprobs ? LogprobsJson(*format.tokenizer, choice.sampled) : Json(nullptr);
    one["finish_reason"] = EndReasonName(choice.end.reason);
    json["choices"].push_back(std::move(one));
  }
  json["usage"] = UsageJson(usage);
  return DumpJson(json);
}

}  // namespace

std::unique_ptr<AnswerWriter> ChatStreamWriter(ChatFormat format, std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<Stream>(std::move(format), std::move(writer));
}

std::unique_ptr<AnswerWriter> ChatWholeWriter(ChatFormat format, std::shared_ptr<ResponseWriter> writer) {
  const int choices = format.choices;
  auto body = [format = std::move(format)](const std::vector<AnsweredChoice>& all, const Usage& usage) {
    return Body(format, all, usage);
  };
  return std::make_unique<WholeWriter>(WholeFormat{.body = std::move(body)}, choices, std::move(writer));
}

}  // namespace shoal
