// Structure over HTTP: the pseudo-model says what it likes, and the text matches what the request says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/testing/openai_fixture.h"

namespace shoal {
namespace {

using testing::HasSubstr;

class StructureApiTest : public OpenAiTest {
 protected:
  /// The choices of an answer, as {text, finish reason}.
  std::vector<std::pair<std::string, std::string>> choices(const std::string& body) {
    std::vector<std::pair<std::string, std::string>> out;
    const Json answer = post_json(kChat, body);
    for (const Json& choice : answer["choices"]) {
      out.emplace_back(choice["message"]["content"], choice["finish_reason"]);
    }
    return out;
  }
};

TEST_F(StructureApiTest, TheTextMatchesWhateverTheModelWouldSay) {
  start();
  const std::pair<std::string, std::string> no = {"no", "stop"};
  EXPECT_THAT(choices(say("maybe", R"(, "guided_choice": ["yes", "no"])")), testing::ElementsAre(no));
  EXPECT_THAT(choices(say("*", R"(, "guided_choice": ["yes", "no"], "n": 2, "ignore_eos": true)")),
              testing::ElementsAre(testing::Pair("yes", "stop"), testing::Pair("yes", "stop")));
  EXPECT_THAT(choices(say("maybe", R"(, "guided_regex": "[0-9]{3}")")),
              testing::ElementsAre(testing::Pair(testing::MatchesRegex("[0-9][0-9][0-9]"), "stop")));
  const auto schema = choices(
      say("{ \\\"a\\\": 9", R"(, "response_format": {"type": "json_schema", "json_schema": {"name": "n",
      "schema": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"],
                 "additionalProperties": false}}})"));
  ASSERT_EQ(schema.size(), 1u);
  EXPECT_EQ(schema[0].second, "stop");
  EXPECT_TRUE(Json::parse(schema[0].first)["a"].is_number_integer()) << schema[0].first;
  EXPECT_GT(engine_->masks(), 10);
}

TEST_F(StructureApiTest, CompletionsAndStreamsAreBoundToo) {
  start();
  const Json answer =
      post_json("/v1/completions", R"({"prompt": "say:zebra[assistant]", "regex": "[a-c]{2}"})");
  EXPECT_THAT(answer["choices"][0]["text"].get<std::string>(), testing::MatchesRegex("[a-c][a-c]"));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  std::string text;
  for (const std::string& event :
       events(kChat, say("maybe", R"(, "guided_choice": ["yes", "no"], "stream": true)"))) {
    if (event == "[DONE]") continue;
    const Json json = Json::parse(event);
    if (!json["choices"].empty()) text += json["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, "no");
}

TEST_F(StructureApiTest, WhatCannotBeEnforcedIsA400) {
  start();
  const Json error =
      post_json(kChat, say("x", R"(, "guided_json": {"type": "array", "uniqueItems": true})"), 400)["error"];
  EXPECT_EQ(error["param"], "guided_json");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("'uniqueItems'"));
  const Json call = post_json(kChat, say("x", R"(, "tool_choice": "required", "tools": [{"type": "function",
      "function": {"name": "f"}}])"),
                              400)["error"];
  EXPECT_EQ(call["param"], "tool_choice");
}

TEST_F(StructureApiTest, ACallThatIsRequiredIsWrittenInTheModelsFormat) {
  AnswerServiceOptions service;
  service.answer_format = [](std::string_view) { return AnswerFormat{.tools = "hermes", .reasoning = {}}; };
  start({}, {}, std::move(service));
  const auto answer =
      choices(say("Hello", R"(, "tool_choice": "required", "parallel_tool_calls": false, "tools": [{"type":
      "function", "function": {"name": "now"}}])"));
  ASSERT_EQ(answer.size(), 1u);
  EXPECT_THAT(answer[0].first, HasSubstr("<tool_call>\n{\"name\": \"now\", \"arguments\": {"));
  EXPECT_THAT(answer[0].first, HasSubstr("\n</tool_call>"));
  EXPECT_EQ(answer[0].second, "stop");
}

}  // namespace
}  // namespace shoal
