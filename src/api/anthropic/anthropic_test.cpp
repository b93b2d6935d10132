// Anthropic's API over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/anthropic/api.h"
#include "api/anthropic/request.h"
#include "api/testing/bracket_parser.h"
#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr const char* kMessages = "/v1/messages";

class AnthropicTest : public OpenAiTest {
 protected:
  void start_brackets() {
    start({}, {}, {.chat_format = [](const ChatRequest&, std::string_view) { return BracketFormat(); }});
  }
  std::vector<HttpRoute> more_routes() override {
    anthropic_ = std::make_unique<AnthropicApi>(*service_);
    return anthropic_->routes();
  }
  static std::string ask(const std::string& script, const std::string& more = "") {
    return fmt::format(
        R"({{"model": "claude-x", "max_tokens": 100, "messages": [{{"role": "user", "content": "say:{}"}}]{}}})",
        script, more);
  }
  std::unique_ptr<AnthropicApi> anthropic_;
};

/// What the events of a stream build, as the official client builds it.
Json Built(const std::vector<std::string>& events) {
  Json message;
  std::string input;
  bool stopped = false;
  for (const std::string& data : events) {
    const Json event = *ParseJson(data);
    const std::string type = event["type"];
    EXPECT_FALSE(stopped) << data;
    if (type == "message_start") message = event["message"];
    if (type == "content_block_start") {
      EXPECT_EQ(event["index"], message["content"].size());
      message["content"].push_back(event["content_block"]);
      input.clear();
    }
    if (type == "content_block_delta") {
      EXPECT_EQ(event["index"].get<size_t>() + 1, message["content"].size());
      Json& block = message["content"].back();
      const Json& delta = event["delta"];
      if (delta["type"] == "text_delta")
        block["text"] = block["text"].get<std::string>() + delta["text"].get<std::string>();
      if (delta["type"] == "thinking_delta") {
        block["thinking"] = block["thinking"].get<std::string>() + delta["thinking"].get<std::string>();
      }
      if (delta["type"] == "input_json_delta") input += delta["partial_json"].get<std::string>();
    }
    if (type == "content_block_stop" && message["content"].back()["type"] == "tool_use" && !input.empty()) {
      const auto parsed = ParseJson(input);
      message["content"].back()["input"] =
          parsed.has_value() && parsed->is_object() ? *parsed : Json::object();
    }
    if (type == "message_delta") {
      message.update(event["delta"]);
      message["usage"] = event["usage"];
    }
    stopped = type == "message_stop";
  }
  EXPECT_TRUE(stopped);
  return message;
}

TEST_F(AnthropicTest, AMessageHasItsShape) {
  start();
  const Json json = post_json(kMessages, ask("hello"));
  EXPECT_THAT(json["id"].get<std::string>(), HasSubstr("msg_"));
  EXPECT_EQ(json["type"], "message");
  EXPECT_EQ(json["role"], "assistant");
  EXPECT_EQ(json["model"], "shoal-test");
  EXPECT_EQ(DumpJson(json["content"]), R"([{"type":"text","text":"hello"}])");
  EXPECT_EQ(json["stop_reason"], "end_turn");
  EXPECT_TRUE(json["stop_sequence"].is_null());
  EXPECT_EQ(json["usage"]["output_tokens"], 5);
  EXPECT_EQ(json["usage"]["input_tokens"], 26);
}

TEST_F(AnthropicTest, AStreamBuildsTheWholeMessage) {
  start_brackets();
  for (const char* script :
       {"plain", "(why)then", "a[f:{}]b", "[f:{}][g:{}]", "(open", "stop STOP never", "", "[f:1]"}) {
    for (const char* more : {"", R"(, "stop_sequences": ["STOP"])"}) {
      Json whole = post_json(kMessages, ask(script, more));
      Json built = Built(events(kMessages, ask(script, std::string(more) + R"(, "stream": true)")));
      for (Json* one : {&whole, &built}) {
        one->erase("id");
        Json& usage = (*one)["usage"];  // The second finds the first's prompt in the cache.
        usage["input_tokens"] =
            usage["input_tokens"].get<int>() + usage["cache_read_input_tokens"].get<int>();
        usage.erase("cache_read_input_tokens");
      }
      EXPECT_EQ(nlohmann::json::parse(built.dump()), nlohmann::json::parse(whole.dump())) << script << more;
    }
  }
}

TEST_F(AnthropicTest, TheReasonOfAnEndIsTold) {
  start_brackets();
  EXPECT_EQ(post_json(kMessages, ask("[f:{}]"))["stop_reason"], "tool_use");
  const Json stopped = post_json(kMessages, ask("a STOP b", R"(, "stop_sequences": ["STOP"])"));
  EXPECT_EQ(stopped["stop_reason"], "stop_sequence");
  EXPECT_EQ(stopped["stop_sequence"], "STOP");
  const std::string cut =
      R"({"model": "shoal-test", "max_tokens": 2, "messages": [{"role": "user", "content": "say:*"}]})";
  EXPECT_EQ(post_json(kMessages, cut)["stop_reason"], "max_tokens");
}

TEST_F(AnthropicTest, AStreamBeginsAndEndsAsDocumented) {
  start();
  std::vector<std::string> types;
  for (const std::string& event : events(kMessages, ask("a", R"(, "stream": true)"))) {
    types.push_back((*ParseJson(event))["type"]);
  }
  EXPECT_EQ(types,
            (std::vector<std::string>{"message_start", "ping", "content_block_start", "content_block_delta",
                                      "content_block_stop", "message_delta", "message_stop"}));
}

TEST_F(AnthropicTest, TokensAreCountedAsTheMessageHasThem) {
  start();
  const std::string body =
      R"({"model": "shoal-test", "system": "Be brief", "messages": [{"role": "user", "content": "say:hi"}]})";
  const Json counted = post_json("/v1/messages/count_tokens", body);
  const Json answered = post_json(kMessages, body.substr(0, body.size() - 1) + R"(, "max_tokens": 9})");
  EXPECT_EQ(counted["input_tokens"], answered["usage"]["input_tokens"]);
}

// Of the test's model no format of calls is known: a call can't be enforced, but its prompt can be counted.
TEST_F(AnthropicTest, TokensAreCountedWithoutAGrammar) {
  start();
  const std::string body =
      R"({"model": "shoal-test", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}],
      "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "any"}})";
  post_json(kMessages, body, 400);
  EXPECT_GT(post_json("/v1/messages/count_tokens", body)["input_tokens"], 0);
}

TEST_F(AnthropicTest, ErrorsHaveAnthropicsShape) {
  start();
  const auto error = [&](const std::string& body, int status) {
    const Json json = post_json(kMessages, body, status);
    EXPECT_EQ(json["type"], "error") << body;
    return json["error"];
  };
  EXPECT_EQ(error("{", 400)["type"], "invalid_request_error");
  EXPECT_EQ(error(R"({"model": "gpt", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]})",
                  404)["type"],
            "not_found_error");
  EXPECT_THAT(error(ask("x", R"(, "surprise": 1)"), 400)["message"].get<std::string>(),
              HasSubstr("surprise"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]})",
                    400)["message"]
                  .get<std::string>(),
              HasSubstr("messages[0].content[0].type"));
  EXPECT_THAT(
      error(
          R"({"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "web_search_20250305", "name": "web_search"}]})",
          400)["message"]
          .get<std::string>(),
      HasSubstr("tools[0].type"));
  const std::string huge(40'000, 'x');
  EXPECT_THAT(error(ask(huge), 400)["message"].get<std::string>(), HasSubstr("prompt is too long"));
}

Json Translated(const std::string& body) {
  const auto parsed = ParseMessages(body);
  EXPECT_TRUE(parsed.has_value()) << parsed.error().message;
  return parsed.has_value() ? *ParseJson(parsed->chat) : Json();
}

TEST(MessagesRequest, BlocksBecomeMessagesInTheOrderThatTemplatesExpect) {
  const Json chat = Translated(R"({"max_tokens": 5, "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=1"},
        {"type": "text", "text": "You are a coder", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief"}],
      "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]},
        {"role": "assistant", "content": [
          {"type": "thinking", "thinking": "hm", "signature": "abc"}, {"type": "redacted_thinking", "data": "x"},
          {"type": "text", "text": "I look"}, {"type": "tool_use", "id": "t1", "name": "ls", "input": {"a": 1}},
          {"type": "tool_use", "id": "t2", "name": "pwd", "input": {}}]},
        {"role": "user", "content": [
          {"type": "text", "text": "and?"},
          {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a.c"}, {"type": "image"}]},
          {"type": "tool_result", "tool_use_id": "t2", "is_error": true}]}]})");
  EXPECT_EQ(chat["messages"].dump(), nlohmann::ordered_json::parse(R"([
      {"role": "system", "content": "You are a coder\nBe brief"},
      {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]},
      {"role": "assistant", "content": [{"type": "text", "text": "I look"}], "reasoning_content": "hm",
       "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "ls", "arguments": "{\"a\":1}"}},
                      {"id": "t2", "type": "function", "function": {"name": "pwd", "arguments": "{}"}}]},
      {"role": "tool", "tool_call_id": "t1", "content": "a.c\n[an image, which this model cannot see]"},
      {"role": "tool", "tool_call_id": "t2", "content": ""},
      {"role": "user", "content": [{"type": "text", "text": "and?"}]}])")
                                         .dump());
}

TEST(MessagesRequest, ToolsAndChoicesBecomeFunctions) {
  const std::string head = R"({"messages": [{"role": "user", "content": "x"}], "tools": [
      {"name": "f", "description": "does", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
      "tool_choice": )";
  const Json chat = Translated(head + R"({"type": "tool", "name": "f", "disable_parallel_tool_use": true}})");
  EXPECT_EQ(
      DumpJson(chat["tools"]),
      R"([{"type":"function","function":{"name":"f","description":"does","parameters":{"type":"object"}}}])");
  EXPECT_EQ(DumpJson(chat["tool_choice"]), R"({"type":"function","function":{"name":"f"}})");
  EXPECT_EQ(Translated(head + R"({"type": "any"}})")["tool_choice"], "required");
  EXPECT_EQ(Translated(head + R"({"type": "none"}})")["tool_choice"], "none");
}

}  // namespace
}  // namespace shoal
