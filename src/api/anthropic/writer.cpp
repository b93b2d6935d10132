#include "api/anthropic/writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/stream_writer.h"
#include "api/answer/whole_writer.h"
#include "api/json.h"
#include "api/openai/response.h"

namespace shoal {
namespace {

using Kind = OutputEvent::Kind;

Json StopReason(const ChoiceEnd& end) {
  if (end.reason == EndReason::kToolCalls) return "tool_use";
  if (end.reason == EndReason::kLength) return "max_tokens";
  return end.stop_string.empty() ? "end_turn" : "stop_sequence";
}

Json StopSequence(const ChoiceEnd& end) {
  return end.stop_string.empty() ? Json(nullptr) : Json(end.stop_string);
}

Json UsageOf(const Usage& usage) {
  return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.cached_tokens},
          {"output_tokens", usage.completion_tokens}};
}

Json MessageJson(const MessageHeader& header) {
  return {{"id", header.id},         {"type", "message"},        {"role", "assistant"},
          {"model", header.model},   {"content", Json::array()}, {"stop_reason", nullptr},
          {"stop_sequence", nullptr}};
}

Json ContentOf(const AnsweredChoice& choice) {
  Json content = Json::array();
  for (const OutputEvent& event : choice.events) {
    if (event.kind == Kind::kContent) content.push_back({{"type", "text"}, {"text", event.text}});
    if (event.kind == Kind::kReasoning) {
      content.push_back({{"type", "thinking"}, {"thinking", event.text}, {"signature", ""}});
    }
    if (event.kind == Kind::kCallBegin) {
      content.push_back(
          {{"type", "tool_use"}, {"id", event.call_id}, {"name", event.name}, {"input", Json::object()}});
    }
    if (event.kind == Kind::kArguments) content.back()["input"] = ArgumentsObject(event.text);
  }
  return content;
}

std::string Body(const MessageHeader& header, const AnsweredChoice& choice, const Usage& usage) {
  Json message = MessageJson(header);
  message["content"] = ContentOf(choice);
  message["stop_reason"] = StopReason(choice.end);
  message["stop_sequence"] = StopSequence(choice.end);
  message["usage"] = UsageOf(usage);
  return DumpJson(message);
}

class Stream final : public StreamWriter {
 public:
  Stream(MessageHeader header, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)), header_(std::move(header)) {}

  void piece(const AnswerPiece& piece) override {
    for (const OutputEvent& event : piece.events) put_part(event);
  }
  void end_choice(int, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    for (const OutputEvent& event : events) put_part(event);
    close();
    end_ = end;
  }

 private:
  /// The kind of block that is open.
  enum class Block { kNone, kText, kThinking, kCall };

  void put_named(std::string_view name, std::string_view data) { put(SseEvent(name, data)); }
  void put_opening() override {
    Json message = MessageJson(header_);
    message["usage"] = UsageOf({.prompt_tokens = header_.prompt_tokens});
    put_named("message_start", DumpJson({{"type", "message_start"}, {"message", std::move(message)}}));
    put(silence());
  }
  void put_closing(const Usage& usage) override {
    Json delta = {{"stop_reason", StopReason(end_)}, {"stop_sequence", StopSequence(end_)}};
    put_named("message_delta",
              DumpJson({{"type", "message_delta"}, {"delta", std::move(delta)}, {"usage", UsageOf(usage)}}));
    put_named("message_stop", R"({"type":"message_stop"})");
  }
  void put_error(const ApiError& error) override { put_named("error", error_body(error)); }
  std::string error_body(const ApiError& error) const override { return MessageErrorBody(error); }
  std::string_view silence() const override { return "event: ping\ndata: {\"type\":\"ping\"}\n\n"; }

  void put_part(const OutputEvent& event) {
    switch (event.kind) {
      case Kind::kContent:
        open(Block::kText, R"({"type":"text","text":""})");
        return put_delta("text_delta", "text", event.text);
      case Kind::kReasoning:
        open(Block::kThinking, R"({"type":"thinking","thinking":"","signature":""})");
        return put_delta("thinking_delta", "thinking", event.text);
      case Kind::kCallBegin:
        close();
        return open(Block::kCall, fmt::format(R"({{"type":"tool_use","id":{},"name":{},"input":{{}}}})",
                                              Quoted(event.call_id), Quoted(event.name)));
      case Kind::kArguments:
        return put_delta("input_json_delta", "partial_json", event.text);
      case Kind::kCallEnd:
        return close();
    }
  }
  void open(Block block, std::string_view json) {
    if (block_ == block) return;
    close();
    block_ = block;
    put_named("content_block_start",
              fmt::format(R"({{"type":"content_block_start","index":{},"content_block":{}}})", index_, json));
  }
  void close() {
    if (std::exchange(block_, Block::kNone) == Block::kNone) return;
    put_named("content_block_stop", fmt::format(R"({{"type":"content_block_stop","index":{}}})", index_++));
  }
  void put_delta(std::string_view type, std::string_view key, std::string_view text) {
    put_named("content_block_delta",
              fmt::format(R"({{"type":"content_block_delta","index":{},"delta":{{"type":"{}","{}":{}}}}})",
                          index_, type, key, Quoted(text)));
  }

  const MessageHeader header_;
  Block block_ = Block::kNone;
  int index_ = 0;
  ChoiceEnd end_;
};

std::string_view ErrorType(const ApiError& error) {
  switch (error.status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return error.status < 500 ? "invalid_request_error" : "api_error";
  }
}

}  // namespace

std::unique_ptr<AnswerWriter> MessageWholeWriter(MessageHeader header,
                                                 std::shared_ptr<ResponseWriter> writer) {
  auto body = [header = std::move(header)](const std::vector<AnsweredChoice>& choices, const Usage& usage) {
    return Body(header, choices.front(), usage);
  };
  return std::make_unique<WholeWriter>(WholeFormat{.body = std::move(body), .error_body = &MessageErrorBody},
                                       1, std::move(writer));
}

std::unique_ptr<AnswerWriter> MessageStreamWriter(MessageHeader header,
                                                  std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<Stream>(std::move(header), std::move(writer));
}

std::string MessageErrorBody(const ApiError& error) {
  // Clients look for these words before they shorten a conversation.
  const std::string head = error.code == "context_length_exceeded" ? "prompt is too long: " : "";
  Json inner = {{"type", ErrorType(error)}, {"message", head + error.message}};
  return DumpJson({{"type", "error"}, {"error", std::move(inner)}});
}

void SendMessageError(ResponseWriter& writer, const ApiError& error) {
  SendError(writer, error, MessageErrorBody(error));
}

}  // namespace shoal
