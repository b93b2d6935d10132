#include "api/ollama/writer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/stream_writer.h"
#include "api/answer/whole_writer.h"
#include "api/http/text.h"
#include "api/json.h"

namespace shoal {
namespace {

using Kind = OutputEvent::Kind;

/// What a part of an answer, or all of it, says.
struct Said {
  std::string content;
  std::string thinking;
  Json calls = Json::array();
};

Json CallJson(const AnsweredCall& call) {
  return {{"id", call.id},
          {"function", {{"name", call.name}, {"arguments", ArgumentsObject(call.arguments)}}}};
}

Json PartJson(const OllamaHeader& header, const Said& said) {
  Json json = {{"model", header.model}, {"created_at", UtcText(UnixSeconds())}};
  if (!header.chat) {
    json["response"] = said.content;
    if (!said.thinking.empty()) json["thinking"] = said.thinking;
  } else {
    json["message"] = {{"role", "assistant"}, {"content", said.content}};
    if (!said.thinking.empty()) json["message"]["thinking"] = said.thinking;
    if (!said.calls.empty()) json["message"]["tool_calls"] = said.calls;
  }
  json["done"] = false;
  return json;
}

/// first_ns: when the first token came.
void AddEnd(const OllamaHeader& header, const ChoiceEnd& end, const Usage& usage, int64_t first_ns,
            Json& json) {
  const int64_t now = NowNs();
  json["done"] = true;
  json["done_reason"] = end.reason == EndReason::kLength ? "length" : "stop";
  json["total_duration"] = now - header.started_ns;
  json["load_duration"] = 0;
  json["prompt_eval_count"] = usage.prompt_tokens;
  json["prompt_eval_duration"] = first_ns - header.started_ns;
  json["eval_count"] = usage.completion_tokens;
  json["eval_duration"] = now - first_ns;
}

class Stream final : public StreamWriter {
 public:
  Stream(OllamaHeader header, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)), header_(std::move(header)), nothing_(line(PartJson(header_, {}))) {}

  void piece(const AnswerPiece& piece) override {
    if (first_ns_ == 0) first_ns_ = NowNs();
    for (const OutputEvent& event : piece.events) put_event(event);
  }
  void end_choice(int, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    for (const OutputEvent& event : events) put_event(event);
    end_ = end;
  }

 private:
  static std::string line(const Json& json) { return DumpJson(json) + "\n"; }

  std::string content_type() const override { return "application/x-ndjson"; }
  void put_opening() override {}
  void put_closing(const Usage& usage) override {
    Json json = PartJson(header_, {});
    AddEnd(header_, end_, usage, first_ns_ == 0 ? NowNs() : first_ns_, json);
    put(line(json));
  }
  void put_error(const ApiError& error) override { put(error_body(error) + "\n"); }
  std::string error_body(const ApiError& error) const override { return OllamaErrorBody(error); }
  std::string_view silence() const override { return nothing_; }

  void put_event(const OutputEvent& event) {
    switch (event.kind) {
      case Kind::kContent:
        return put(line(PartJson(header_, {.content = event.text})));
      case Kind::kReasoning:
        return put(line(PartJson(header_, {.thinking = event.text})));
      case Kind::kCallBegin:
        call_ = {event.call_id, event.name, ""};
        return;
      case Kind::kArguments:
        call_.arguments += event.text;
        return;
      case Kind::kCallEnd:
        return put(line(PartJson(header_, {.calls = Json::array({CallJson(call_)})})));
    }
  }

  const OllamaHeader header_;
  const std::string nothing_;
  AnsweredCall call_;  // The open one.
  ChoiceEnd end_;
  int64_t first_ns_ = 0;
};

}  // namespace

std::unique_ptr<AnswerWriter> OllamaWholeWriter(OllamaHeader header, std::shared_ptr<ResponseWriter> writer) {
  auto body = [header = std::move(header)](const std::vector<AnsweredChoice>& choices, const Usage& usage) {
    const AnsweredChoice& choice = choices.front();
    Said said{.content = choice.content(), .thinking = choice.reasoning()};
    for (const AnsweredCall& call : choice.calls()) said.calls.push_back(CallJson(call));
    Json json = PartJson(header, said);
    // When the first token came is not known of an answer that is collected: all counts as the answer's time.
    AddEnd(header, choice.end, usage, header.started_ns, json);
    return DumpJson(json);
  };
  return std::make_unique<WholeWriter>(WholeFormat{.body = std::move(body), .error_body = &OllamaErrorBody},
                                       1, std::move(writer));
}

std::unique_ptr<AnswerWriter> OllamaStreamWriter(OllamaHeader header,
                                                 std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<Stream>(std::move(header), std::move(writer));
}

std::string OllamaLoadedBody(const OllamaHeader& header) {
  Json json = PartJson(header, {});
  json["done"] = true;
  json["done_reason"] = "load";
  return DumpJson(json);
}

std::string OllamaErrorBody(const ApiError& error) { return DumpJson({{"error", error.message}}); }

void SendOllamaError(ResponseWriter& writer, const ApiError& error) {
  SendError(writer, error, OllamaErrorBody(error));
}

}  // namespace shoal
