#include "api/answer/dialect_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/answer/choice_chain.h"
#include "api/testing/byte_text.h"

namespace shoal {
namespace {

using testing::MatchesRegex;

constexpr std::string_view kTools = R"([{"type": "function", "function": {"name": "now"}}])";

OutputEvents Read(const OutputFormat& format, std::string_view text) {
  OutputEvents events;
  const auto parser = format.parser();
  parser->push(text, events);
  parser->finish(events);
  return events;
}

TEST(DialectOutput, CallsAreReadOnlyWhereTheConversationHasTools) {
  const ServedText text = ByteText();
  const DialectOutput output({"hermes", "think"}, text.tokenizer);
  const std::string call = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
  for (const std::string_view tools : {"", "[]"}) {
    const auto events = Read(output.format({.messages = "[]", .tools = tools}, ""), call);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0], (OutputEvent{.kind = OutputEvent::Kind::kContent, .text = call}));
  }
  const auto events = Read(output.format({.messages = "[]", .tools = kTools}, ""), call);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].kind, OutputEvent::Kind::kCallBegin);
  EXPECT_EQ(events[0].name, "now");
  EXPECT_THAT(events[0].call_id, MatchesRegex("call_[0-9a-f]+"));
  EXPECT_EQ(events[1], (OutputEvent{.kind = OutputEvent::Kind::kArguments, .text = "{}"}));
  EXPECT_EQ(events[2].kind, OutputEvent::Kind::kCallEnd);
}

TEST(DialectOutput, IdsHaveTheFormThatTheTemplateTakes) {
  const ServedText text = ByteText();
  const ChatRequest chat{.messages = "[]", .tools = kTools};
  EXPECT_THAT(
      Read(DialectOutput({"mistral", "none"}, text.tokenizer).format(chat, ""), "[TOOL_CALLS]now{}")[0]
          .call_id,
      MatchesRegex("[0-9A-Za-z]{9}"));
  const DialectOutput kimi({"kimi-k2", "none"}, text.tokenizer);
  EXPECT_EQ(
      Read(kimi.format(chat, ""),
           "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:3<|tool_call_argument_begin|>{}"
           "<|tool_call_end|>")[0]
          .call_id,
      "functions.now:3");
}

TEST(DialectOutput, AnAnswerGoesOnWithinTheReasoningThatThePromptOpens) {
  const ServedText text = ByteText();
  const DialectOutput output({"none", "think"}, text.tokenizer);
  const auto events = Read(output.format({.messages = "[]"}, "assistant\n<think>\n"), "Hm.</think>Yes");
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0], (OutputEvent{.kind = OutputEvent::Kind::kReasoning, .text = "Hm."}));
  EXPECT_EQ(events[1], (OutputEvent{.kind = OutputEvent::Kind::kContent, .text = "Yes"}));
}

TEST(DialectOutput, AModelWithoutADialectHasNoParser) {
  const ServedText text = ByteText();
  EXPECT_EQ(DialectOutput(Dialect{}, text.tokenizer).format({.messages = "[]", .tools = kTools}, "").parser,
            nullptr);
}

}  // namespace
}  // namespace shoal
