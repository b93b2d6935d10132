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
    {Messages(R"({"role": "user", "content": 5})"), "messages[0].content", "a string"},
    {Messages(R"({"role": "user", "content": [5]})"), "messages[0].content[0]", "an object"},
    {Messages(R"({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})"),
     "messages[0].content[0].type", "only text parts"},
    {Messages(R"({"role": "user", "content": [{"type": "text"}]})"), "messages[0].content[0].text",
     "missing"},
    {Messages(R"({"role": "user", "content": "hi", "tool_calls": [{"function": {"name": "f"}}]})"),
     "messages[0].tool_calls", "assistant"},
    {Messages(R"({"role": "assistant", "tool_calls": [{"type": "function"}]})"),
     "messages[0].tool_calls[0].function", "missing"},
    {Chat(R"("temprature": 1)"), "temprature", "Did you mean 'temperature'?"},
    {Chat(R"("temperature": "hot")"), "temperature", "a number, got a string (\"hot\")"},
    {Chat(R"("temperature": -0.1)"), "temperature", "at least 0"},
    {Chat(R"("temperature": 2.1)"), "temperature", "at most 2"},
    {Chat(R"("temperature": true)"), "temperature", "a number, got a boolean"},
    {Chat(R"("surprise": false)"), "surprise", "Unknown parameter"},
    {Chat(R"("top_p": -0.1)"), "top_p", "at least 0"},
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
    {Chat(fmt::format(R"("stop": "{}")", std::string(1025, 'x'))), "stop", "at most 1024"},
    {Chat(R"("stop": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17])"), "stop", "up to 16"},
    {Chat(R"("stop": ["a", 1])"), "stop[1]", "a string"},
    {Chat(R"("stop": 1)"), "stop", "a string or an array"},
    {Chat(R"("max_tokens": 0)"), "max_tokens", "at least 1"},
    {Chat(R"("max_tokens": -2)"), "max_tokens", "from -1"},
    {Chat(R"("max_tokens": 18446744073709551615)"), "max_tokens", "got 18446744073709551615"},
    {Chat(R"("max_completion_tokens": 0)"), "max_completion_tokens", "at least 1"},
    {Chat(R"("min_tokens": -1)"), "min_tokens", "from 0"},
    {Chat(R"("priority": 101)"), "priority", "from -100 to 100"},
    {Chat(R"("priority": "high")"), "priority", "an integer"},
    {Chat(R"("stop_token_ids": [1000])"), "stop_token_ids", "0 to 999"},
    {Chat(R"("ignore_eos": 1)"), "ignore_eos", "a boolean"},
    {Chat(R"("stream": "yes")"), "stream", "a boolean"},
    {Chat(R"("stream": true, "stream_options": {"usage": true})"), "stream_options.usage", "Unknown"},
    {Chat(R"("model": 5)"), "model", "a string"},
    {Chat(R"("n": 0)"), "n", "from 1 to 128"},
    {Chat(R"("n": 129)"), "n", "from 1 to 128"},
    {Chat(R"("logprobs": 1)"), "logprobs", "a boolean"},
    {Chat(R"("top_logprobs": 5)"), "top_logprobs", "needs 'logprobs'"},
    {Chat(R"("logprobs": true, "top_logprobs": 21)"), "top_logprobs", "from 0 to 20"},
    {Chat(R"("continue_final_message": true, "add_generation_prompt": true)"), "continue_final_message",
     "exclude"},
    {Chat(R"("web_search_options": {})"), "web_search_options", "can't search"},
    {Chat(R"("typical_p": 0.5)"), "typical_p", "not supported yet"},
    {Chat(R"("mirostat": 2)"), "mirostat", "not supported yet"},
    {Chat(R"("response_format": {"type": "xml"})"), "response_format.type", "'json_schema'"},
    {Chat(R"("reasoning_effort": 3)"), "reasoning_effort", "a string"},
    {Chat(R"("functions": [{"name": "f"}])"), "functions", "not supported yet"},
    {Chat(R"("tool_choice": "sometimes")"), "tool_choice", "'required'"},
    {Chat(R"("tools": [{"type": "retrieval"}])"), "tools[0].type", "'function'"},
    {Chat(R"("tools": [{"type": "function", "function": {"description": "f"}}])"), "tools[0].function.name",
     "missing"},
    {Chat(R"("chat_template_kwargs": {"messages": []})"), "chat_template_kwargs.messages",
     "set by the server"},
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
      {R"({"prompt": 5})", "prompt", "a string, a non-empty"},
      {R"({"prompt": []})", "prompt", "non-empty"},
      {R"({"prompt": [[]]})", "prompt[0]", "non-empty"},
      {R"({"prompt": ["a", 5]})", "prompt[1]", "a string or"},
      {R"({"prompt": ["a", [1, 1000]]})", "prompt[1]", "'prompt[1][1]'"},
      {R"({"prompt": [1, -1]})", "prompt", "'prompt[1]'"},
      {R"({"prompt": [1, 1000]})", "prompt", "0 to 999"},
      {R"({"prompt": [1, "a"]})", "prompt", "'prompt[1]'"},
      {R"({"prompt": "a", "best_of": 3, "stream": true})", "best_of", "can't be streamed"},
      {R"({"prompt": "a", "best_of": 2, "n": 3})", "best_of", "at least as many"},
      {R"({"prompt": "a", "suffix": "z", "echo": true})", "suffix", "exclude"},
      {R"({"prompt": "a", "logprobs": 21})", "logprobs", "from 0 to 20"},
      {R"({"prompt": ["a","a","a","a","a","a","a","a","a"], "n": 128})", "prompt", "more than 1024"},
      {R"({"prompt": "a", "messages": [1]})", "messages", "Unknown"},
      {R"({"prompt": "a", "max_completion_tokens": 5})", "max_completion_tokens", "Unknown"},
  };
  for (const Refused& one : cases) {
    const auto parsed = ParseCompletion(one.body, kLimits);
    ASSERT_FALSE(parsed.has_value()) << one.body;
    EXPECT_EQ(parsed.error().param, one.param) << one.body;
    EXPECT_THAT(parsed.error().message, HasSubstr(one.message)) << one.body;
  }
}

TEST(OpenAiRequest, AcceptsWhatCannotChangeTheAnswer) {
  const auto parsed = ParseChatCompletion(
      Chat(
          R"("model": null, "n": 1, "logprobs": false, "top_logprobs": 0, "user": "u", "store": true, "stop": null,
              "parallel_tool_calls": false, "response_format": {"type": "text"}, "service_tier": "flex", "metadata": {"a": 1},
              "tools": null, "tool_choice": "none", "modalities": ["text"], "audio": null, "prediction": {"type": "content"},
              "functions": [], "function_call": null, "reasoning_effort": "", "logit_bias": {}, "seed": null,
              "temperature": null, "max_tokens": -1, "max_completion_tokens": null, "stream": null,
              "stream_options": {"include_usage": true}, "top_p": null, "presence_penalty": 0, "frequency_penalty": 0,
              "chat_template_kwargs": null, "surprise": null, "nothing": {}, "none": [], "empty": "", "verbosity": "low",
              "prompt_cache_key": "k", "safety_identifier": "s", "cache_control": {"type": "ephemeral"},
              "typical_p": 1.0, "mirostat": 0, "mirostat_tau": 5, "cache_prompt": true)"),
      kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_FALSE(parsed->common.model.has_value());
  EXPECT_FALSE(parsed->common.max_tokens.has_value());
  EXPECT_FALSE(parsed->common.include_usage);
  EXPECT_EQ(parsed->conversation.tools, "");
  EXPECT_EQ(parsed->conversation.kwargs, "");
  const auto completion = ParseCompletion(
      R"({"prompt": ["x"], "echo": false, "best_of": 1, "suffix": null, "logprobs": false, "n": 1})",
      kLimits);
  ASSERT_TRUE(completion.has_value()) << completion.error().message;
  EXPECT_EQ(completion->common.sampling.top_logprobs, kNoLogprobs);
}

TEST(OpenAiRequest, ReadsEveryFieldThatIsHonoured) {
  const auto parsed = ParseChatCompletion(
      Chat(
          R"("model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
              "presence_penalty": -1, "frequency_penalty": 1.5, "logit_bias": {"9": -100, "3": 0.5}, "seed": -1,
              "stop": ["a", "", "b", "a"], "max_tokens": 5, "max_completion_tokens": 12, "stream": true, "stream_options": {"include_usage": true},
              "chat_template_kwargs": {"z": 1, "a": [true]}, "n": 3, "logprobs": true, "top_logprobs": 20, "min_tokens": 2, "priority": -3,
              "stop_token_ids": [7, 8], "ignore_eos": true)"),
      kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  const CommonFields& common = parsed->common;
  EXPECT_EQ(common.model, "m");
  EXPECT_EQ(common.max_tokens, 12);
  EXPECT_EQ(common.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(common.stream && common.include_usage);
  EXPECT_EQ(parsed->conversation.kwargs, R"({"z":1,"a":[true]})");
  EXPECT_EQ(common.n, 3);
  EXPECT_EQ(common.min_tokens, 2);
  EXPECT_EQ(common.priority, -3);
  EXPECT_EQ(common.stop_token_ids, (std::vector<int32_t>{7, 8}));
  EXPECT_TRUE(common.ignore_eos);
  const SamplingParams params = ResolveSampling(common.sampling, {});
  EXPECT_EQ(params.temperature, 0.5f);
  EXPECT_EQ(params.top_p, 0.9f);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.min_p, 0.05f);
  EXPECT_EQ(params.repetition_penalty, 1.1f);
  EXPECT_EQ(params.presence_penalty, -1.0f);
  EXPECT_EQ(params.frequency_penalty, 1.5f);
  EXPECT_EQ(params.seed, UINT64_MAX);
  EXPECT_EQ(params.top_logprobs, 20);
  EXPECT_EQ(params.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, 0.5f}, {9, -100.0f}}));
}

TEST(OpenAiRequest, ACompletionHasPromptsChoicesAndItsOldFields) {
  const auto parsed = ParseCompletion(
      R"({"prompt": ["a", [1, 2]], "n": 2, "best_of": 4, "logprobs": 5, "echo": true, "max_tokens": 0})",
      kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  ASSERT_EQ(parsed->prompts.size(), 2u);
  EXPECT_EQ(std::get<std::string>(parsed->prompts[0]), "a");
  EXPECT_EQ(std::get<std::vector<int32_t>>(parsed->prompts[1]), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(parsed->best_of, 4);
  EXPECT_EQ(parsed->common.sampling.top_logprobs, 5);
  EXPECT_TRUE(parsed->echo);
  EXPECT_EQ(parsed->common.max_tokens, 0);
  EXPECT_EQ(ParseCompletion(R"({"prompt": "a", "suffix": "z"})", kLimits)->suffix, "z");
  EXPECT_TRUE(ParseCompletion(R"({"prompt": "a", "max_tokens": -1})", kLimits)->token_limit_given);
  EXPECT_FALSE(ParseCompletion(R"({"prompt": "a"})", kLimits)->token_limit_given);
}

TEST(OpenAiRequest, PassesToolsAndCallsToTheTemplateInTheSendersOrder) {
  const auto parsed = ParseChatCompletion(R"({"messages": [
      {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
        "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]},
      {"role": "tool", "tool_call_id": "c1", "content": "4"}],
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "b": 1, "a": 2}, "strict": true}, "cache_control": {"type": "ephemeral"}}]})",
                                          kLimits);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
  EXPECT_EQ(parsed->conversation.messages,
            R"([{"role":"system","content":"a\nb"},)"
            R"({"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function",)"
            R"("function":{"name":"f","arguments":{"z":1,"a":2}}}]},)"
            R"({"role":"tool","content":"4","tool_call_id":"c1"}])");
  EXPECT_EQ(parsed->conversation.tools,
            R"([{"type":"function","function":{"name":"f","parameters":{"type":"object","b":1,"a":2}}}])");
}

/// What the template is given for these messages.
Conversation Read(const std::string& messages, const std::string& more = "") {
  const auto parsed = ParseChatCompletion(fmt::format(R"({{"messages": [{}]{}}})", messages, more), kLimits);
  EXPECT_TRUE(parsed.has_value()) << messages << ": " << parsed.error().message;
  return parsed.has_value() ? parsed->conversation : Conversation();
}

TEST(OpenAiRequest, AReplayedHistoryIsNoError) {
  const std::string call = R"("tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":)";
  const std::pair<std::string, std::string> cases[] = {
      {R"({"role": "assistant", "content": null})", R"({"role":"assistant","content":""})"},
      {R"({"role": "assistant"})", R"({"role":"assistant","content":""})"},
      {R"({"role": "assistant", "content": []})", R"({"role":"assistant","content":""})"},
      {R"({"role": "assistant", "content": "", "tool_calls": null, "refusal": null, "audio": null, "annotations": [],
           "function_call": null})",
       R"({"role":"assistant","content":""})"},
      {R"({"role": "assistant", "content": null, "refusal": "I can't"})",
       R"({"role":"assistant","content":"I can't"})"},
      {R"({"role": "assistant", "content": "a", "reasoning_content": "r", "cache_control": {"type": "ephemeral"},
           "provider_specific_fields": {"x": 1}, "id": "msg_1"})",
       R"({"role":"assistant","content":"a","reasoning_content":"r"})"},
      {R"({"role": "assistant", "content": "a", "reasoning": "r"})",
       R"({"role":"assistant","content":"a","reasoning_content":"r"})"},
      {R"({"role": "assistant", "content": [{"type": "thinking", "thinking": "r"}, {"type": "text", "text": "a"}]})",
       R"({"role":"assistant","content":"a","reasoning_content":"r"})"},
      {R"({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]})",
       R"({"role":"assistant","content":"no"})"},
      {R"({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}})",
       R"({"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]})"},
      {R"({"role": "assistant", "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]})",
       R"({"role":"assistant","content":"",)" + call + "{}}}]}"},
      {R"({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]})",
       R"({"role":"assistant","content":"",)" + call + R"({"a":1}}}]})"},
      {R"({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]})",
       R"({"role":"assistant","content":"",)" + call + "{}}}]}"},
      {R"({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]})",
       R"({"role":"assistant","content":"",)" + call + R"({"input":"x"}}}]})"},
      {R"({"role": "assistant", "tool_calls": [{"id": "c", "type": "f", "action": {"a": 1}}]})",
       R"({"role":"assistant","content":"",)" + call + R"({"action":{"a":1}}}}]})"},
      {R"({"role": "tool", "tool_call_id": "c", "name": "f", "content": null})",
       R"({"role":"tool","content":"","name":"f","tool_call_id":"c"})"},
      {R"({"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "x", "cache_control": null}]})",
       R"({"role":"tool","content":"x","tool_call_id":"c"})"},
      {R"({"role": "function", "name": "f", "content": "x"})", R"({"role":"tool","content":"x","name":"f"})"},
      {R"({"role": "user", "content": [{"type": "input_text", "text": "x"}, "y"], "name": "n", "tool_calls": []})",
       R"({"role":"user","content":"x\ny","name":"n"})"},
      {R"({"role": "system", "content": null})", R"({"role":"system","content":""})"},
      {R"({"role": "developer", "content": "x"})", R"({"role":"system","content":"x"})"}};
  for (const auto& [sent, expected] : cases) {
    const Conversation conversation = Read(sent + R"(, {"role": "user", "content": "go on"})");
    EXPECT_EQ(conversation.messages, "[" + expected + R"(,{"role":"user","content":"go on"}])");
    EXPECT_EQ(conversation.fallback_messages, "");
  }
}

TEST(OpenAiRequest, BrokenArgumentsAreTheirTextOrNothing) {
  for (const char* arguments : {R"({\"a\": )", "hello", "[1]", "7"}) {
    const Conversation conversation = Read(fmt::format(
        R"({{"role": "assistant", "tool_calls": [{{"function": {{"name": "f", "arguments": "{}"}}}}]}})",
        arguments));
    EXPECT_THAT(conversation.messages, HasSubstr(fmt::format(R"("arguments":"{}")", arguments)));
    EXPECT_THAT(conversation.fallback_messages, HasSubstr(R"("arguments":{}})"));
  }
}

TEST(OpenAiRequest, AnAssistantsFinalTextIsContinuedUnlessTheRequestSaysOtherwise) {
  using Continue = Conversation::Continue;
  const std::string end = R"({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})";
  EXPECT_EQ(Read(end).continue_final, Continue::kIfPossible);
  EXPECT_EQ(Read(end, R"(, "continue_final_message": true)").continue_final, Continue::kYes);
  EXPECT_EQ(Read(end, R"(, "continue_final_message": false)").continue_final, Continue::kNo);
  EXPECT_EQ(Read(end, R"(, "add_generation_prompt": true)").continue_final, Continue::kNo);
  EXPECT_FALSE(Read(end, R"(, "add_generation_prompt": false)").add_generation_prompt);
  EXPECT_EQ(Read(R"({"role": "assistant", "content": "b", "prefix": true})").continue_final, Continue::kYes);
  EXPECT_EQ(Read(R"({"role": "user", "content": "a"})").continue_final, Continue::kNo);
  EXPECT_EQ(Read(R"({"role": "assistant", "content": ""})").continue_final, Continue::kNo);
  EXPECT_EQ(Read(R"({"role": "assistant", "content": "b", "tool_calls": [{"function": {"name": "f"}}]})")
                .continue_final,
            Continue::kNo);
}

TEST(OpenAiRequest, TemplatesHearOfReasoningInTheWordsOfAllApis) {
  const std::string user = R"({"role": "user", "content": "a"})";
  const std::pair<const char*, const char*> cases[] = {
      {R"("reasoning_effort": "low")", R"({"reasoning_effort":"low"})"},
      {R"("reasoning_effort": "none")", R"({"enable_thinking":false,"thinking":false})"},
      {R"("enable_thinking": true)", R"({"enable_thinking":true,"thinking":true})"},
      {R"("thinking": {"type": "disabled"})", R"({"enable_thinking":false,"thinking":false})"},
      {R"("reasoning": {"effort": "high"})", R"({"reasoning_effort":"high"})"},
      {R"("reasoning": {"enabled": false})", R"({"enable_thinking":false,"thinking":false})"},
      {R"("enable_thinking": true, "chat_template_kwargs": {"enable_thinking": false})",
       R"({"enable_thinking":false,"thinking":true})"}};
  for (const auto& [sent, expected] : cases) EXPECT_EQ(Read(user, std::string(", ") + sent).kwargs, expected);
}

TEST(OpenAiRequest, AModelThatMustNotCallToolsIsNotToldOfThem) {
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": )";
  EXPECT_NE(ParseChatCompletion(Chat(tools + R"("auto")"), kLimits)->conversation.tools, "");
  EXPECT_EQ(ParseChatCompletion(Chat(tools + R"("none")"), kLimits)->conversation.tools, "");
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
