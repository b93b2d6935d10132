#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kHermes = {.dialect = {.tools = "hermes", .reasoning = "think"}};

TEST(Hermes, ReadsACallBetweenContent) {
  ExpectReads(
      kHermes,
      "I look.\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln </tool_call>\", "
      "\"days\": 2}}\n</tool_call>",
      {.content = "I look.", .calls = {{"get_weather", R"({"city": "Köln </tool_call>", "days": 2})"}}});
}

TEST(Hermes, ReadsParallelCallsAndTextAfterThem) {
  ExpectReads(kHermes,
              "<tool_call>\n{\"name\": \"get_time\", \"arguments\": {\"zone\": \"a\\\"b\"}}\n</tool_call>\n"
              "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\nDone.",
              {.content = "\nDone.", .calls = {{"get_time", R"({"zone": "a\"b"})"}, {"now", "{}"}}});
}

TEST(Hermes, TakesMembersInAnyOrderAndOpenAisShape) {
  ExpectReads(kHermes, R"(<tool_call>{"arguments": {"zone": "x"}, "name": "get_time"}</tool_call>)",
              {.content = "", .calls = {{"get_time", R"({"zone": "x"})"}}});
  ExpectReads(
      kHermes,
      R"(<tool_call>{"type": "function", "id": "c1", "function": {"name": "now", "arguments": "{}"}}</tool_call>)",
      {.content = "", .calls = {{"now", "{}", "c1"}}});
}

TEST(Hermes, ArgumentsThatAreTextGoOutAsWhatTheTextSays) {
  ExpectReads(kHermes,
              R"(<tool_call>{"name": "get_time", "arguments": "{\"zone\": \"\u00fc\\n\"}"}</tool_call>)",
              {.content = "", .calls = {{"get_time", "{\"zone\": \"ü\\n\"}"}}});
}

TEST(Hermes, WithoutArgumentsThereAreNone) {
  EXPECT_EQ(Read(kHermes, R"(<tool_call>{"name": "now"}</tool_call>)"), (Answer{.calls = {{"now", "{}"}}}));
  EXPECT_EQ(Read(kHermes, R"(<tool_call>{"name": "now", "arguments": null}</tool_call>)"),
            (Answer{.calls = {{"now", "{}"}}}));
}

TEST(Hermes, WhatIsNoCallIsContent) {
  for (const std::string text :
       {"<tool_call>not JSON</tool_call>", "Use <tool_call> to call.",
        "<tool_call>\n{\"city\": \"Paris\"}\n</tool_call>", "<tool_call></tool_call>", "<tool_call>",
        "<tool_call>{\"name\": \"f", "<tool_c", "a < b\n"}) {
    ExpectReads(kHermes, text, {.content = text});
  }
}

TEST(Hermes, AnUnfinishedCallKeepsWhatThereIs) {
  EXPECT_EQ(Read(kHermes, R"(<tool_call>{"name": "get_time", "arguments": {"zone": "Eu)"),
            (Answer{.calls = {{"get_time", R"({"zone": "Eu)"}}}));
}

TEST(Hermes, ABraceTooManyOrTooFewDoesNotHurtTheCall) {
  const std::vector<Call> calls = {{"get_time", R"({"zone": "x"})"}};
  EXPECT_EQ(Read(kHermes, R"(<tool_call>{"name": "get_time", "arguments": {"zone": "x"}</tool_call>)"),
            (Answer{.calls = calls}));
  EXPECT_EQ(Read(kHermes, R"(<tool_call>{"name": "get_time", "arguments": {"zone": "x"}}}</tool_call>)"),
            (Answer{.content = "}", .calls = calls}));
}

TEST(Hermes, ACallEndsReasoningThatIsStillOpen) {
  Reading opened = kHermes;
  opened.reasoning_open = true;
  ExpectReads(opened,
              "\nI need <tool_call> here.\n<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
              {.reasoning = "I need <tool_call> here.", .calls = {{"now", "{}"}}});
}

TEST(Hermes, ManyMembersBeforeTheNameAreHeldInBounds) {
  const std::string text =
      "<tool_call>{\"arguments\": {\"code\": \"" + std::string(100'000, 'x') + "\"}, \"name\": \"f\"}";
  EXPECT_EQ(Read(kHermes, text), (Answer{.content = text}));
}

}  // namespace
}  // namespace shoal::test
