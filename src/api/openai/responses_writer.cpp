#include "api/openai/responses_writer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/stream_writer.h"
#include "api/answer/whole_writer.h"
#include "api/openai/response.h"

namespace shoal {
namespace {

using Kind = OutputEvent::Kind;

/// Builds the items of a response from events, one open item at a time.
class OutputBuilder {
 public:
  /// Told of what happens, in the order and with the fields of the events of a stream.
  using Listener = std::function<void(std::string_view type, Json fields)>;

  OutputBuilder(const ResponseFormat& format, Listener listener)
      : format_(format), listener_(std::move(listener)), suffix_(format.id.substr(format.id.find('_') + 1)) {}

  void add(const OutputEvent& event) {
    switch (event.kind) {
      case Kind::kContent:
        open("message");
        return add_text("response.output_text.delta", event.text);
      case Kind::kReasoning:
        open("reasoning");
        return add_text("response.reasoning_text.delta", event.text);
      case Kind::kCallBegin:
        close("completed");
        return open_call(event);
      case Kind::kArguments:
        text_ += event.text;
        if (type() == "function_call") {
          tell("response.function_call_arguments.delta", {{"delta", event.text}});
        }
        return;
      case Kind::kCallEnd:
        return close("completed");
    }
  }

  /// Ends the open item. status: "completed", or "incomplete" where the answer was cut off.
  void close(const char* status) {
    if (item_.is_null()) return;
    if (type() == "function_call") {
      item_["arguments"] = text_;
      tell("response.function_call_arguments.done", {{"name", item_["name"]}, {"arguments", text_}});
    } else if (type() == "custom_tool_call") {
      item_["input"] = custom_input();
      tell("response.custom_tool_call_input.delta", {{"delta", item_["input"]}});
      tell("response.custom_tool_call_input.done", {{"input", item_["input"]}});
    } else {
      close_part();
    }
    item_["status"] = status;
    listener_("response.output_item.done", {{"output_index", output_.size()}, {"item", item_}});
    output_.push_back(std::exchange(item_, nullptr));
    text_.clear();
  }

  const Json& output() const { return output_; }

 private:
  std::string type() const { return item_.is_null() ? "" : item_["type"].get<std::string>(); }
  std::string new_id(const char* prefix) const {
    return fmt::format("{}_{}{:02}", prefix, suffix_, output_.size());
  }

  /// An event of the open item.
  void tell(std::string_view type, Json fields) {
    Json all = {{"item_id", item_["id"]}, {"output_index", output_.size()}};
    all.update(fields);
    listener_(type, std::move(all));
  }
  void begin(Json item) {
    item_ = std::move(item);
    listener_("response.output_item.added", {{"output_index", output_.size()}, {"item", item_}});
  }
  Json part() const {
    if (type() == "reasoning") return {{"type", "reasoning_text"}, {"text", text_}};
    return {{"type", "output_text"},
            {"text", text_},
            {"annotations", Json::array()},
            {"logprobs", Json::array()}};
  }
  void open(std::string_view wanted) {
    if (type() == wanted) return;
    close("completed");
    if (wanted == "message") {
      begin({{"id", new_id("msg")},
             {"type", "message"},
             {"status", "in_progress"},
             {"role", "assistant"},
             {"content", Json::array()}});
    } else {
      begin({{"id", new_id("rs")},
             {"type", "reasoning"},
             {"status", "in_progress"},
             {"summary", Json::array()},
             {"content", Json::array()}});
    }
    tell("response.content_part.added", {{"content_index", 0}, {"part", part()}});
  }
  void open_call(const OutputEvent& event) {
    const bool custom = format_.custom_tools.contains(event.name);
    begin({{"id", new_id(custom ? "ctc" : "fc")},
           {"type", custom ? "custom_tool_call" : "function_call"},
           {"status", "in_progress"},
           {"call_id", event.call_id},
           {"name", event.name},
           {custom ? "input" : "arguments", ""}});
  }
  void add_text(std::string_view delta_type, const std::string& text) {
    text_ += text;
    Json fields = {{"content_index", 0}, {"delta", text}};
    if (type() == "message") fields["logprobs"] = Json::array();
    tell(delta_type, std::move(fields));
  }
  void close_part() {
    Json fields = {{"content_index", 0}, {"text", text_}};
    const bool message = type() == "message";
    if (message) fields["logprobs"] = Json::array();
    tell(message ? "response.output_text.done" : "response.reasoning_text.done", std::move(fields));
    item_["content"].push_back(part());
    tell("response.content_part.done", {{"content_index", 0}, {"part", part()}});
  }
  /// The one argument of a custom tool: its text; all that the model wrote where that is no JSON.
  std::string custom_input() const {
    const auto arguments = ParseJson(text_);
    const bool whole = arguments.has_value() && arguments->is_object() && arguments->contains("input") &&
                       (*arguments)["input"].is_string();
    return whole ? (*arguments)["input"].get<std::string>() : text_;
  }

  const ResponseFormat& format_;
  const Listener listener_;
  const std::string suffix_;
  Json output_ = Json::array();
  Json item_;         // Null where none is open.
  std::string text_;  // Of the open item.
};

Json ResponseJson(const ResponseFormat& format, std::string_view status, const Json& output) {
  Json json = {
      {"id", format.id},     {"object", "response"}, {"created_at", format.created},  {"status", status},
      {"background", false}, {"error", nullptr},     {"incomplete_details", nullptr}, {"model", format.model},
      {"output", output}};
  json.update(Json::parse(format.echo));  // Our own text.
  json["usage"] = nullptr;
  return json;
}

const char* ItemStatus(const ChoiceEnd& end) {
  return end.reason == EndReason::kLength ? "incomplete" : "completed";
}

Json EndedResponse(const ResponseFormat& format, const Json& output, const ChoiceEnd& end,
                   const Usage& usage) {
  Json json = ResponseJson(format, ItemStatus(end), output);
  if (end.reason == EndReason::kLength) json["incomplete_details"] = {{"reason", "max_output_tokens"}};
  json["usage"] = {{"input_tokens", usage.prompt_tokens},
                   {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
                   {"output_tokens", usage.completion_tokens},
                   {"output_tokens_details", {{"reasoning_tokens", 0}}},
                   {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
  if (format.keep) format.keep(json);
  return json;
}

class Stream final : public StreamWriter {
 public:
  Stream(ResponseFormat format, std::shared_ptr<ResponseWriter> writer)
      : StreamWriter(std::move(writer)),
        format_(std::move(format)),
        output_(format_, [this](std::string_view type, Json fields) { put_typed(type, std::move(fields)); }) {
  }

  void piece(const AnswerPiece& piece) override {
    for (const OutputEvent& event : piece.events) output_.add(event);
  }
  void end_choice(int, std::span<const OutputEvent> events, const ChoiceEnd& end) override {
    for (const OutputEvent& event : events) output_.add(event);
    output_.close(ItemStatus(end));
    end_ = end;
  }

 private:
  void put_typed(std::string_view type, Json fields) {
    Json json = {{"type", type}, {"sequence_number", sequence_++}};
    json.update(fields);
    put(SseEvent(type, DumpJson(json)));
  }
  void put_opening() override {
    const Json response = ResponseJson(format_, "in_progress", Json::array());
    for (const char* type : {"response.created", "response.in_progress"}) {
      put_typed(type, {{"response", response}});
    }
  }
  void put_closing(const Usage& usage) override {
    put_typed(end_.reason == EndReason::kLength ? "response.incomplete" : "response.completed",
              {{"response", EndedResponse(format_, output_.output(), end_, usage)}});
  }
  void put_error(const ApiError& error) override {
    Json response = ResponseJson(format_, "failed", output_.output());
    response["error"] = {{"code", error.code.empty() ? "server_error" : error.code},
                         {"message", error.message}};
    put_typed("response.failed", {{"response", std::move(response)}});
  }

  const ResponseFormat format_;
  OutputBuilder output_;
  ChoiceEnd end_;
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<AnswerWriter> ResponseWholeWriter(ResponseFormat format,
                                                  std::shared_ptr<ResponseWriter> writer) {
  auto body = [format = std::move(format)](const std::vector<AnsweredChoice>& choices, const Usage& usage) {
    const AnsweredChoice& choice = choices.front();
    OutputBuilder output(format, [](std::string_view, Json) {});
    for (const OutputEvent& event : choice.events) output.add(event);
    output.close(ItemStatus(choice.end));
    return DumpJson(EndedResponse(format, output.output(), choice.end, usage));
  };
  return std::make_unique<WholeWriter>(WholeFormat{.body = std::move(body)}, 1, std::move(writer));
}

std::unique_ptr<AnswerWriter> ResponseStreamWriter(ResponseFormat format,
                                                   std::shared_ptr<ResponseWriter> writer) {
  return std::make_unique<Stream>(std::move(format), std::move(writer));
}

Json MessageOfOutput(const Json& output) {
  Json message = {{"role", "assistant"}, {"content", ""}};
  const auto append = [&message](const char* key, const Json& text) {
    message[key] = message.value(key, "") + text.get<std::string>();
  };
  for (const Json& item : output) {
    const std::string type = item["type"];
    if (type == "message") append("content", item["content"][0]["text"]);
    if (type == "reasoning") append("reasoning_content", item["content"][0]["text"]);
    if (type != "function_call" && type != "custom_tool_call") continue;
    const Json arguments =
        type == "function_call" ? item["arguments"] : Json(DumpJson({{"input", item["input"]}}));
    message["tool_calls"].push_back({{"id", item["call_id"]},
                                     {"type", "function"},
                                     {"function", {{"name", item["name"]}, {"arguments", arguments}}}});
  }
  return message;
}

}  // namespace shoal
