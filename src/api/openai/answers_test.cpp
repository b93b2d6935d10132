// The answers of OpenAI's API over HTTP: that what is streamed is what is sent at once, and when it is sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/http/tcp_stream.h"
#include "api/testing/bracket_parser.h"
#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

/// Adds a delta of a stream to the message that it makes.
void AddDelta(const Json& delta, Json& message) {
  for (const auto& [key, value] : delta.items()) {
    if (key != "tool_calls") {
      const bool text = message.contains(key) && message[key].is_string() && value.is_string();
      message[key] = text ? Json(message[key].get<std::string>() + value.get<std::string>()) : value;
      continue;
    }
    for (const Json& call : value) {
      Json& calls = message["tool_calls"];
      if (call.contains("id")) {
        ASSERT_EQ(call["index"], calls.size());
        calls.push_back(call);
        calls.back().erase("index");
        continue;
      }
      Json& arguments = calls.at(call["index"].get<size_t>())["function"]["arguments"];
      arguments = arguments.get<std::string>() + call["function"]["arguments"].get<std::string>();
    }
  }
}

/// What the chunks of a stream join to: choices as the whole answer has them.
Json Joined(const std::vector<std::string>& events) {
  Json choices = Json::array();
  EXPECT_EQ(events.back(), "[DONE]");
  for (const std::string& event : events) {
    if (event == "[DONE]") break;
    const Json chunk = *ParseJson(event);
    for (const Json& part : chunk.value("choices", Json::array())) {
      const auto index = part["index"].get<size_t>();
      while (choices.size() <= index) {
        choices.push_back({{"index", choices.size()}, {"finish_reason", nullptr}});
      }
      Json& choice = choices[index];
      EXPECT_TRUE(choice["finish_reason"].is_null()) << "after its end: " << event;
      choice["finish_reason"] = part["finish_reason"];
      if (part.contains("delta")) AddDelta(part["delta"], choice["message"]);
      if (part.contains("text")) choice["text"] = choice.value("text", "") + part["text"].get<std::string>();
      if (part["logprobs"].is_null()) continue;
      for (const auto& [key, list] : part["logprobs"].items()) {
        for (const Json& one : list) choice["logprobs"][key].push_back(one);
      }
    }
  }
  return choices;
}

/// The choices of a whole answer, without keys whose value is null where no stream says so.
Json Choices(const Json& answer) {
  Json choices = answer["choices"];
  for (Json& choice : choices) {
    if (choice["logprobs"].is_null()) choice.erase("logprobs");
    if (choice.contains("logprobs")) choice["logprobs"].erase("refusal");
    if (!choice.contains("message")) continue;
    choice["message"].erase("refusal");
    if (choice["message"]["content"].is_null()) choice["message"]["content"] = "";
  }
  return choices;
}

/// Keys in one order, so that documents compare by value.
std::string Sorted(const Json& json) { return nlohmann::json::parse(json.dump()).dump(1); }

class AnswersTest : public OpenAiTest {
 protected:
  void start_brackets() {
    start({}, {}, {.chat_format = [](const ChatRequest&, std::string_view) { return BracketFormat(); }});
  }
  void expect_same(const char* path, const std::string& body) {
    const std::string open = body.substr(0, body.rfind('}'));
    const Json whole = post_json(path, body);
    const Json joined = Joined(events(path, open + R"(, "stream": true})"));
    EXPECT_EQ(Sorted(joined), Sorted(Choices(whole))) << path << body;
  }
};

TEST_F(AnswersTest, AStreamJoinsToTheWholeAnswer) {
  start_brackets();
  const char* scripts[] = {"plain",
                           "h\xC3\xA9llo \xF0\x9F\x90\x9F!",
                           "(think) and say STOP never",
                           "[f:{}]",
                           "a(b)c[g:1][h:2]d",
                           "(open",
                           "[f:cut",
                           "ends in ST",
                           ""};
  for (const char* script : scripts) {
    expect_same(kChat, say(script, R"(, "stop": ["STOP"])"));
    expect_same(kChat, say(script, R"(, "max_tokens": 5)"));
    expect_same("/v1/completions", fmt::format(R"({{"prompt": "say:{}", "stop": ["STOP"]}})", script));
  }
}

TEST_F(AnswersTest, CallsAndReasoningHaveTheirFields) {
  start_brackets();
  const Json json = post_json(kChat, say("(why)[f:1]"));
  const Json& choice = json["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  EXPECT_EQ(choice["message"]["reasoning_content"], "why");
  EXPECT_EQ(DumpJson(choice["message"]["tool_calls"]),
            R"([{"id":"call_0","type":"function","function":{"name":"f","arguments":"1"}}])");
}

TEST_F(AnswersTest, GenerateStreamsToo) {
  start();
  std::string text;
  Json last;
  for (const std::string& event : events("/generate", R"({"prompt": "say:hello", "stream": true})")) {
    if (event == "[DONE]") break;
    last = *ParseJson(event);
    text += last["text"].get<std::string>();
  }
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(last["finish_reason"], "stop");
  EXPECT_EQ(last["usage"]["completion_tokens"], 5);
}

TEST_F(AnswersTest, AStreamIsOpenBeforeTheFirstToken) {
  start();
  for (const char* path : {kChat, "/v1/completions"}) {
    engine_->hold(true);
    TcpStream socket = *TcpStream::Connect("127.0.0.1", server_->port(), Soon());
    const std::string body =
        path == kChat ? say("hi", R"(, "stream": true)") : R"({"prompt": "say:hi", "stream": true})";
    ASSERT_TRUE(socket
                    .send_all(fmt::format("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", path,
                                          body.size(), body),
                              Soon())
                    .ok());
    std::string received;
    const std::string expected = path == kChat ? "\"role\":\"assistant\"" : "\r\n\r\n";
    while (received.find(expected) == std::string::npos) {
      const auto piece = socket.receive(Soon());
      ASSERT_TRUE(piece.ok()) << "nothing came while the prompt was computed";
      received += *piece;
    }
    EXPECT_THAT(received, HasSubstr("200 OK"));
    engine_->hold(false);
  }
}

}  // namespace
}  // namespace shoal
