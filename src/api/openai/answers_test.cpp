// The answers of OpenAI's API over HTTP: that what is streamed is what is sent at once, and when it is sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

TEST_F(AnswersTest, StreamsOfSeveralChoicesAndLogProbabilitiesJoinToo) {
  start_brackets();
  const std::string seeded = R"(, "n": 3, "seed": 7, "max_tokens": 9)";
  expect_same(kChat, say("?", seeded));
  expect_same(kChat, say("(a)b[f:{}]", R"(, "n": 2, "logprobs": true, "top_logprobs": 2)"));
  expect_same("/v1/completions",
              R"({"prompt": ["say:?", "say:hi", [115, 97, 121, 58, 120]], "n": 2, "seed": 7})");
  for (const char* more : {R"("max_tokens": 7)", R"("max_tokens": 7, "n": 3)", R"("max_tokens": 0)",
                           R"("max_tokens": 7, "ignore_eos": true)"}) {
    expect_same("/v1/completions",
                fmt::format(R"({{"prompt": ["say:hello", "say:?", [115, 97, 121, 58, 121]], "seed": 1,
                                 "logprobs": 3, "echo": true, {}}})",
                            more));
  }
}

TEST_F(AnswersTest, ChoicesDependOnTheirNumberAndNothingElse) {
  start();
  const auto texts = [&](const std::string& more) {
    std::vector<std::string> all;
    const Json json = post_json(kChat, say("?", R"(, "seed": 7, "max_tokens": 12)" + more));
    for (const Json& choice : json["choices"]) all.push_back(choice["message"]["content"].get<std::string>());
    return all;
  };
  const std::vector<std::string> four = texts(R"(, "n": 4)");
  ASSERT_EQ(four.size(), 4u);
  EXPECT_NE(four[0], four[1]);
  EXPECT_EQ(texts(R"(, "n": 2)"), std::vector<std::string>(four.begin(), four.begin() + 2));
  EXPECT_EQ(texts(""), std::vector<std::string>{four[0]});
}

TEST_F(AnswersTest, SeveralPromptsAreAnsweredInTheirOrder) {
  start();
  const Json json =
      post_json("/v1/completions", R"({"prompt": ["say:one", "say:two"], "n": 2, "echo": true})");
  std::string all;
  for (const Json& choice : json["choices"]) {
    all += fmt::format("{}={} ", choice["index"].dump(), choice["text"].get<std::string>());
  }
  EXPECT_EQ(all, "0=say:oneone 1=say:oneone 2=say:twotwo 3=say:twotwo ");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 14);
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
}

TEST_F(AnswersTest, TheBestAreShownAndAllAreCounted) {
  start();
  const std::string sampled = R"({"prompt": "say:?", "seed": 3, "max_tokens": 6, "logprobs": 0, )";
  const auto mean = [](const Json& choice) {
    double sum = 0;
    for (const Json& one : choice["logprobs"]["token_logprobs"]) sum += one.get<double>();
    return sum / static_cast<double>(choice["logprobs"]["token_logprobs"].size());
  };
  const Json all = post_json("/v1/completions", sampled + R"("n": 6})");
  const Json best = post_json("/v1/completions", sampled + R"("n": 2, "best_of": 6})");
  ASSERT_EQ(best["choices"].size(), 2u);
  EXPECT_EQ(best["usage"]["completion_tokens"], 36);
  std::vector<double> means;
  for (const Json& choice : all["choices"]) means.push_back(mean(choice));
  std::ranges::sort(means, std::ranges::greater());
  EXPECT_DOUBLE_EQ(mean(best["choices"][0]), means[0]);
  EXPECT_DOUBLE_EQ(mean(best["choices"][1]), means[1]);
  const Json hidden = post_json("/v1/completions", R"({"prompt": "say:hi", "best_of": 2})");
  EXPECT_TRUE(hidden["choices"][0]["logprobs"].is_null());
}

TEST_F(AnswersTest, NoTokensAreAnEcho) {
  start();
  const Json json = post_json("/v1/completions", R"({"prompt": "say:hi", "max_tokens": 0, "echo": true})");
  EXPECT_EQ(json["choices"][0]["text"], "say:hi");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 0);
  EXPECT_EQ(engine_->steps(), 0);
}

TEST_F(AnswersTest, AnEchoHasTheLogProbabilitiesOfThePrompt) {
  start({}, {.batch = {.rows_per_step = 5}});
  for (const int generated : {0, 1, 4}) {
    const Json choice =
        post_json("/v1/completions", fmt::format(R"({{"prompt": "say:hi\u00e9", "max_tokens": {},
                                                                     "echo": true, "logprobs": 2}})",
                                                 generated))["choices"][0];
    const Json& logprobs = choice["logprobs"];
    const size_t tokens = 8 + static_cast<size_t>(generated);
    for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
      EXPECT_EQ(logprobs[key].size(), tokens) << key;
    }
    EXPECT_EQ(logprobs["tokens"][4], "h");
    EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
    EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
    const std::vector<int32_t> ids = Bytes("say:hi\u00e9hi");
    for (size_t i = 1; i < 8; ++i) {
      EXPECT_EQ(logprobs["token_logprobs"][i], WithLogprobs(ids[i], 2).logprob) << i;
      EXPECT_EQ(logprobs["top_logprobs"][i].size(), 3u) << i;
      if (i < 7) {
        EXPECT_EQ(logprobs["text_offset"][i], i);
      }
    }
    if (generated > 0) {
      EXPECT_EQ(logprobs["text_offset"][8], 7);  // Characters of the prompt.
    }
  }
}

// Programs that score a text (lm-eval) ask for one token more and leave the last entry out.
TEST_F(AnswersTest, AnEchoHasAnEntryForTheEndOfTheTextToo) {
  start();
  const Json choice = post_json(
      "/v1/completions", R"({"prompt": "say:", "max_tokens": 1, "echo": true, "logprobs": 1})")["choices"][0];
  EXPECT_EQ(choice["text"], "say:");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), 5u);
  EXPECT_EQ(choice["logprobs"]["tokens"][4], "<|end|>");
  const Json plain = post_json("/v1/completions", R"({"prompt": "say:", "max_tokens": 1, "logprobs": 1})");
  EXPECT_EQ(plain["choices"][0]["logprobs"]["tokens"].size(), 0u);
}

TEST_F(AnswersTest, ATextLastsAsLongAsAskedAndEndsAtAnyOfItsIds) {
  start();
  const auto text = [&](const std::string& more) {
    return post_json(kChat, say("hello", more))["choices"][0]["message"]["content"].get<std::string>();
  };
  EXPECT_EQ(text(R"(, "stop_token_ids": [108])"), "he");
  EXPECT_EQ(text(R"(, "stop": "l", "min_tokens": 3)"), "hel");
}

TEST_F(AnswersTest, WhatTheModelWasNotTrainedForIsRefused) {
  start();
  const Json json = post_json("/v1/completions", R"({"prompt": "a", "suffix": "b"})", 400);
  EXPECT_EQ(json["error"]["param"], "suffix");
  EXPECT_EQ(json["error"]["code"], "unsupported_parameter");
}

TEST_F(AnswersTest, AnEmptyPromptAndOneThatDoesNotFitHaveCodesOfTheirOwn) {
  start({.limits = {.blocks = 8, .context = 100, .steps_in_flight = 1}});
  EXPECT_EQ(post_json("/v1/completions", R"({"prompt": ""})", 400)["error"]["code"], "empty_prompt");
  const Json error =
      post_json("/v1/completions", fmt::format(R"({{"prompt": "{}"}})", std::string(100, 'a')), 400)["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_THAT(error["message"].get<std::string>(),
              HasSubstr("This model's maximum context length is 100 tokens. However, "));
  EXPECT_EQ(error["n_prompt_tokens"], 100);
  EXPECT_EQ(error["n_ctx"], 100);
  const Json clamped = post_json(kChat, say("*", R"(, "max_tokens": 32000)"));
  EXPECT_EQ(clamped["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(clamped["usage"]["total_tokens"], 100);
}

TEST_F(AnswersTest, BrokenArgumentsAreGivenToTemplatesThatTakeThem) {
  const std::string history = R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",
      "arguments": "{\"a\": "}}]}], "continue_final_message": false})";
  const std::string call = "{% for m in messages %}{% for c in m.tool_calls %}say:{{ ";
  const std::string end = " }}{% endfor %}{% endfor %}[assistant]";
  text_ = ByteText(call + "c.function.arguments" + end);
  start();
  EXPECT_EQ(post_json(kChat, history)["choices"][0]["message"]["content"], "{\"a\": ");
}

TEST_F(AnswersTest, BrokenArgumentsAreNoneForTemplatesThatNeedAnObject) {
  const std::string history = R"({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f",
      "arguments": "{\"a\": "}}]}]})";
  text_ = ByteText(
      "{% for m in messages %}{% for c in m.tool_calls %}say:{{ c.function.arguments.items() | length }}{% "
      "endfor %}"
      "{% endfor %}[assistant]");
  start();
  EXPECT_EQ(post_json(kChat, history)["choices"][0]["message"]["content"], "0");
}

TEST_F(AnswersTest, CallsAndReasoningHaveTheirFields) {
  start_brackets();
  const Json json = post_json(kChat, say("(why)[f:1]"));
  const Json& choice = json["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  EXPECT_EQ(choice["message"]["reasoning_content"], "why");
  EXPECT_EQ(choice["message"]["reasoning"], "why");
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
