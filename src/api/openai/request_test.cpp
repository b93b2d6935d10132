#include "api/openai/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/answer/stop_matcher.h"
#include "api/json.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr RequestLimits kLimits{.vocabulary = 1000};
constexpr const char* kHello = R"("messages": [{"role": "user", "content": "hi"}])";

std::string Chat(const std::string& more) { return fmt::format("{{{}, {}}}", kHello, more); }
std::string Messages(const std::string& messages) { return fmt::format(R"({{"messages": [{}]}})", messages); }

struct Refused {
  std::string body;
  const char* param;    ///< "" where no field is at fault.
  const char* message;  ///< A part of it.
};

const std::vector<Refused> kRefusedChats = {
    {"", "", "not valid JSON"},
    {"hello", "", "not valid JSON"},
    {"{", "", "not valid JSON"},
    {R"({"messages": [{"role": "user", "content": "hi"}],})", "", "not valid JSON"},
    {R"({"messages": NaN})", "", "not valid JSON"},
    {"{\"messages\": \"\xff\xfe\"}", "", "UTF-8"},
    {R"({"messages": "\ud800"})", "", "not valid JSON"},
    {R"({"temperature": 1e999})", "", "not valid JSON"},
    {std::string(100, '[') + std::string(100, ']'), "", "nested more than 64"},
    {"[]", "", "must be a JSON object, got an array"},
    {"null", "", "must be a JSON object, got null"},
    {"{}", "messages", "at least one message"},
    {R"({"messages": []})", "messages", "at least one message"},
    {R"({"messages": "hi"})", "messages", "must be an array"},
    {Messages("7"), "messages[0]", "must be an object"},
    {Messages(R"({"content": "hi"})"), "messages[0].role", "missing"},
    {Messages(R"({"role": "robot", "content": "hi"})"), "messages[0].role", "'robot'"},
    {Messages(R"({"role": "user"})"), "messages[0].content", "missing"},
    {Messages(R"({"role": "user", "content": null})"), "messages[0].content", "missing"},
    {Messages(R"({"role": "user", "content": 5})"), "messages[0].content", "a string"},
    {Messages(R"({"role": "user", "content": []})"), "messages[0].content", "non-empty array"},
    {Messages(R"({"role": "user", "content": ["x"]})"), "messages[0].content[0]", "an object"},
    {Messages(R"({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})"),
     "messages[0].content[0].type", "only text parts"},
    {Messages(R"({"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}]})"),
     "messages[0].content[0].cache", "Unknown parameter"},
    {Messages(R"({"role": "user", "content": "hi", "contents": "x"})"), "messages[0].contents",
     "Did you mean"},
    {Messages(R"({"role": "user", "content": "hi", "tool_calls": []})"), "messages[0].tool_calls",
     "assistant"},
    {Messages(R"({"role": "user", "content": "hi", "tool_call_id": "x"})"), "messages[0].tool_call_id",
     "tool messages"},
    {Messages(
         R"({"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{"}}]})"),
     "messages[0].tool_calls[0].function.arguments", "JSON object"},
    {Messages(R"({"role": "assistant", "tool_calls": [{"type": "function"}]})"),
     "messages[0].tool_calls[0].function", "missing"},
    {Messages(R"({"role": "assistant", "content": "", "refusal": "no"})"), "messages[0].refusal",
     "not supported"},
    {Chat(R"("temprature": 1)"), "temprature", "Did you mean 'temperature'?"},
    {Chat(R"("surprise": null)"), "surprise", "Unknown parameter"},
    {Chat(R"("temperature": "hot")"), "temperature", "a number, got a string (\"hot\")"},
    {Chat(R"("temperature": -0.1)"), "temperature", "at least 0"},
    {Chat(R"("temperature": 2.1)"), "temperature", "at most 2"},
    {Chat(R"("temperature": true)"), "temperature", "a number, got a boolean"},
    {Chat(R"("top_p": 0)"), "top_p", "above 0"},
    {Chat(R"("top_p": 1.1)"), "top_p", "at most 1"},
    {Chat(R"("min_p": 2)"), "min_p", "at most 1"},
    {Chat(R"("top_k": -2)"), "top_k", "from -1"},
    {Chat(R"("top_k": 1.5)"), "top_k", "an integer"},
    {Chat(R"("repetition_penalty": 0)"), "repetition_penalty", "at least"},
    {Chat(R"("presence_penalty": -3)"), "presence_penalty", "at least -2"},
    {Chat(R"("frequency_penalty": 3)"), "frequency_penalty", "at most 2"},
    {Chat(R"("seed": 1.5)"), "seed", "an integer"},
    {Chat(R"("logit_bias": [])"), "logit_bias", "an object"},
    {Chat(R"("logit_bias": {"1000": 1})"), "logit_bias.1000", "0 to 999"},
    {Chat(R"("logit_bias": {"x": 1})"), "logit_bias.x", "token ids"},
    {Chat(R"("logit_bias": {"1": 101})"), "logit_bias.1", "-100 to 100"},
    {Chat(R"("logit_bias": {"1": 1, "01": 2})"), "logit_bias", "twice"},
    {Chat(R"("stop": "")"), "stop", "1 to 1024"},
    {Chat(R"("stop": ["a", "b", "c", "d", "e"])"), "stop", "up to 4"},
    {Chat(R"("stop": ["a", 1])"), "stop[1]", "a string"},
    {Chat(R"("stop": 1)"), "stop", "a string or an array"},
    {Chat(R"("max_tokens": 0)"), "max_tokens", "from 1"},
    {Chat(R"("max_tokens": 18446744073709551615)"), "max_tokens", "got 18446744073709551615"},
    {Chat(R"("max_tokens": 5, "max_completion_tokens": 6)"), "max_completion_tokens", "older name"},
    {Chat(R"("stream": "yes")"), "stream", "a boolean"},
    {Chat(R"("stream_options": {"include_usage": true})"), "stream_options", "'stream' is true"},
    {Chat(R"("stream": true, "stream_options": {"usage": true})"), "stream_options.usage", "Unknown"},
    {Chat(R"("model": 5)"), "model", "a string"},
    {Chat(R"("n": 2)"), "n", "not supported yet"},
    {Chat(R"("logprobs": true)"), "logprobs", "not supported yet"},
    {Chat(R"("top_logprobs": 5)"), "top_logprobs", "not supported yet"},
    {Chat(R"("response_format": {"type": "json_object"})"), "response_format", "not supported yet"},
    {Chat(R"("store": true)"), "store", "not supported yet"},
    {Chat(R"("reasoning_effort": "low")"), "reasoning_effort", "not supported yet"},
    {Chat(R"("functions": [])"), "functions", "not supported yet"},
    {Chat(R"("parallel_tool_calls": false)"), "parallel_tool_calls", "not supported yet"},
    {Chat(R"("tool_choice": "required")"), "tool_choice", "not supported yet"},
    {Chat(R"("tools": [{"type": "retrieval"}])"), "tools[0].type", "'function'"},
    {Chat(R"("tools": [{"type": "function", "function": {"name": "f", "strict": true}}])"),
     "tools[0].function.strict", "not supported yet"},
    {Chat(R"("tools": [{"type": "function", "function": {"description": "f"}}])"), "tools[0].function.name",
     "missing"},
    {Chat(R"("chat_template_kwargs": {"messages": []})"), "chat_template_kwargs.messages",
     "set by the server"},
    {Chat(R"("metadata": {"a": 1})"), "metadata.a", "a string"},
};

TEST(OpenAiRequest, RefusesWhatItCannotHonourAndNamesIt) {
  for (const Refused& one : kRefusedChats) {
    const auto parsed = ParseChatCompletion(one.body, kLimits);
    ASSERT_FALSE(parsed.has_value()) << one.body;
    EXPECT_EQ(parsed.error().status, 400) << one.body;
    EXPECT_EQ(parsed.error().param, one.param) << one.body;
    EXPECT_THAT(parsed.error().message, HasSubstr(one.message)) << one.body;
    EXPECT_EQ(parsed.error().type, "invalid_request_error");
  }
}

TEST(OpenAiRequest, RefusesBadPromptsAndNamesThem) {
  const std::vector<Refused> cases = {
      {R"({})", "prompt", "missing"},
      {R"({"prompt": 5})", "prompt", "a string or"},
      {R"({"prompt": []})", "prompt", "non-empty"},
      {R"({"prompt": ["a", "b"]})", "prompt", "only one a request"},
      {R"({"prompt": [[1], [2]]})", "prompt", "only one a request"},
      {R"({"prompt": [[]]})", "prompt", "non-empty"},
      {R"({"prompt": [1, -1]})", "prompt", "'prompt[1]'"},
      {R"({"prompt": [1, 1000]})", "prompt", "0 to 999"},
      {R"({"prompt": [1, "a"]})", "prompt", "'prompt[1]'"},
      {R"({"prompt": "a", "echo": true})", "echo", "not supported yet"},
      {R"({"prompt": "a", "best_of": 3})", "best_of", "not supported yet"},
      {R"({"prompt": "a", "suffix": "z"})", "suffix", "not supported yet"},
      {R"({"prompt": "a", "logprobs": 0})", "logprobs", "not supported yet"},
      {R"({"prompt": "a", "messages": []})", "messages", "Unknown"},
      {R"({"prompt": "a", "max_completion_tokens": 5})", "max_completion_tokens", "Unknown"},
  };
  for (const Refused& one : cases) {
    const auto parsed = ParseCompletion(one.body, kLimits);
    ASSERT_FALSE(parsed.has_value()) << one.body;
    EXPECT_EQ(parsed.error().param, one.param) << one.body;
    EXPECT_THAT(parsed.error().message, HasSubstr(one.message)) << one.body;
  }
}

TEST(OpenAiRequest, AcceptsNullAndNoOpValues) {
  const auto parsed = ParseChatCompletion(
      Chat(
          R"("model": null, "n": 1, "logprobs": false, "top_logprobs": 0, "user": "u", "store": false, "stop": null,
              "parallel_tool_calls": true, "response_format": {"type": "text"}, "service_tier": "auto", "metadata": {"a": "b"},
              "tools": null, "tool_choice": "none", "modalities": ["text"], "audio": null, "prediction": null, "functions": null,
              "function_call": null, "reasoning_effort": null, "logit_bias": {}, "seed": null, "temperature": null,
              "max_tokens": null, "max_completion_tokens": null, "stream": null, "stream_options": null, "top_p": null,
              "presence_penalty": 0, "frequency_penalty": 0, "chat_template_kwargs": null)"),
      kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_FALSE(parsed->common.model.has_value());
  EXPECT_FALSE(parsed->common.max_tokens.has_value());
  EXPECT_EQ(parsed->tools, "");
  EXPECT_EQ(parsed->template_kwargs, "");
  const auto completion = ParseCompletion(
      R"({"prompt": ["x"], "echo": false, "best_of": 1, "suffix": null, "logprobs": null, "n": 1})", kLimits);
  ASSERT_TRUE(completion.has_value()) << completion.error().message;
}

TEST(OpenAiRequest, ReadsEveryFieldThatIsHonoured) {
  const auto parsed = ParseChatCompletion(
      Chat(
          R"("model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
              "presence_penalty": -1, "frequency_penalty": 1.5, "logit_bias": {"9": -100, "3": 0.5}, "seed": -1,
              "stop": ["a", "b"], "max_completion_tokens": 12, "stream": true, "stream_options": {"include_usage": true},
              "chat_template_kwargs": {"z": 1, "a": [true]})"),
      kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  const CommonFields& common = parsed->common;
  EXPECT_EQ(common.model, "m");
  EXPECT_EQ(common.max_tokens, 12);
  EXPECT_EQ(common.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(common.stream && common.include_usage);
  EXPECT_EQ(parsed->template_kwargs, R"({"z":1,"a":[true]})");
  const SamplingParams params = ResolveSampling(common.sampling, {});
  EXPECT_EQ(params.temperature, 0.5f);
  EXPECT_EQ(params.top_p, 0.9f);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.min_p, 0.05f);
  EXPECT_EQ(params.repetition_penalty, 1.1f);
  EXPECT_EQ(params.presence_penalty, -1.0f);
  EXPECT_EQ(params.frequency_penalty, 1.5f);
  EXPECT_EQ(params.seed, UINT64_MAX);
  EXPECT_EQ(params.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, 0.5f}, {9, -100.0f}}));
}

TEST(OpenAiRequest, PassesToolsAndCallsToTheTemplateInTheSendersOrder) {
  const auto parsed = ParseChatCompletion(R"({"messages": [
      {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
        "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]},
      {"role": "tool", "tool_call_id": "c1", "content": "4"}],
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "b": 1, "a": 2}, "strict": false}}]})",
                                          kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_EQ(parsed->messages,
            R"([{"role":"system","content":"a\nb"},)"
            R"({"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function",)"
            R"("function":{"name":"f","arguments":{"z":1,"a":2}}}]},)"
            R"({"role":"tool","content":"4","tool_call_id":"c1"}])");
  EXPECT_EQ(parsed->tools,
            R"([{"type":"function","function":{"name":"f","parameters":{"type":"object","b":1,"a":2}}}])");
}

TEST(OpenAiRequest, AModelThatMustNotCallToolsIsNotToldOfThem) {
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": )";
  EXPECT_NE(ParseChatCompletion(Chat(tools + R"("auto")"), kLimits)->tools, "");
  EXPECT_EQ(ParseChatCompletion(Chat(tools + R"("none")"), kLimits)->tools, "");
}

TEST(OpenAiRequest, TakesTheModelsDefaultsWhereTheRequestIsSilent) {
  const SamplingDefaults defaults{.temperature = 0.3, .top_p = 0.95, .top_k = 20, .repetition_penalty = 1.05};
  const SamplingParams silent = ResolveSampling({}, defaults);
  EXPECT_EQ(silent.temperature, 0.3f);
  EXPECT_EQ(silent.top_p, 0.95f);
  EXPECT_EQ(silent.top_k, 20);
  EXPECT_EQ(silent.repetition_penalty, 1.05f);
  EXPECT_EQ(ResolveSampling({.temperature = 1.0, .top_k = -1}, defaults).temperature, 1.0f);
  EXPECT_EQ(ResolveSampling({.top_k = -1}, defaults).top_k, 0);
  EXPECT_EQ(ResolveSampling({}, {.temperature = 0.3, .greedy = true}).temperature, 0.0f);
  EXPECT_EQ(ResolveSampling({}, {}).temperature, 1.0f);
  EXPECT_EQ(ResolveSampling({.temperature = 1e-30}, {}).temperature, 0.0f);
  EXPECT_GT(ResolveSampling({.top_p = 1e-300}, {}).top_p, 0.0f);
  EXPECT_NE(ResolveSampling({}, {}).seed, ResolveSampling({}, {}).seed);
}

TEST(Json, BoundsTheKeysOfAnObject) {
  std::string text = "{";
  for (int i = 0; i < kJsonKeysMax; ++i) text += fmt::format("\"{}\":0,", i);
  EXPECT_TRUE(ParseJson(text + "\"0\":0}").has_value() == false);
  text.back() = '}';
  EXPECT_TRUE(ParseJson(text).has_value());
}

TEST(Json, AKeyThatComesTwiceIsRefusedByName) {
  const auto twice =
      ParseChatCompletion(R"({"messages": [], "model": "a", "model": "b"})", {.vocabulary = 10});
  ASSERT_FALSE(twice.has_value());
  EXPECT_EQ(twice.error().status, 400);
  EXPECT_EQ(twice.error().code, "invalid_json");
  EXPECT_THAT(twice.error().message, HasSubstr("'model' appears twice"));
}

TEST(Json, ExcerptsDoNotCutCharacters) {
  for (int pad = 0; pad < 4; ++pad) {
    std::string text(static_cast<size_t>(pad), 'x');
    for (int i = 0; i < 40; ++i) text += "é";
    EXPECT_TRUE(ParseJson(DumpJson(Json(JsonExcerpt(Json(text))))).has_value());
    EXPECT_THAT(DumpJson(Json(JsonExcerpt(Json(text)))), ::testing::Not(HasSubstr("\xEF\xBF\xBD")));
  }
}

/// Feeds `text` in pieces of `size` bytes; what came out, and "|" with the rest if it did not stop.
std::string Fed(const std::vector<std::string>& stops, const std::string& text, size_t size) {
  StopMatcher matcher(stops);
  std::string out;
  for (size_t i = 0; i < text.size() && !matcher.stopped(); i += size)
    out += matcher.push(text.substr(i, size));
  const bool stopped = matcher.stopped();
  out += matcher.flush();
  return out + (stopped ? "#" : "");
}

TEST(StopMatcher, GivesTheTextBeforeTheFirstStopHoweverItComes) {
  for (size_t size = 1; size < 12; ++size) {
    EXPECT_EQ(Fed({"END"}, "one END two", size), "one #") << size;
    EXPECT_EQ(Fed({"END"}, "one EN two E", size), "one EN two E") << size;
    EXPECT_EQ(Fed({"aab"}, "aaaab", size), "aa#") << size;
    EXPECT_EQ(Fed({"abcd", "c"}, "xabce", size), "xab#") << size;
    EXPECT_EQ(Fed({"\n\n", "User:"}, "hello\nUser: x", size), "hello\n#") << size;
    EXPECT_EQ(Fed({}, "free", size), "free") << size;
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatCanBecomeAStop) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.push("a st"), "a ");
  EXPECT_EQ(matcher.push("ar"), "star");
  EXPECT_EQ(matcher.push("s"), "");
  EXPECT_EQ(matcher.flush(), "s");
}

}  // namespace
}  // namespace shoal
