#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kK2 = {.dialect = {.tools = "kimi-k2", .reasoning = "think"}};

TEST(KimiK2, ReadsParallelCallsWithTheirIds) {
  ExpectReads(kK2,
              "<think>Both.</think>I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_time:0"
              "<|tool_call_argument_begin|>{\"zone\": "
              "\"<|tool_call_end|>\"}<|tool_call_end|><|tool_call_begin|>functions.now:1"
              "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
              {.content = "I look.",
               .reasoning = "Both.",
               .calls = {{"get_time", R"({"zone": "<|tool_call_end|>"})", "functions.get_time:0"},
                         {"now", "{}", "functions.now:1"}}});
}

TEST(KimiK2, ACallEndsReasoningThatIsStillOpen) {
  Reading opened = kK2;
  opened.reasoning_open = true;
  ExpectReads(
      opened,
      "Two calls.<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>"
      "<|tool_call_end|><|tool_calls_section_end|>",
      {.reasoning = "Two calls.", .calls = {{"now", "{}", "functions.now:0"}}});
}

TEST(KimiK2, WhatIsNoCallIsContent) {
  for (const std::string text : {"<|tool_calls_section_begin|>", "<|tool_calls_section_begin|>no",
                                 "<|tool_calls_section_begin|><|tool_call_begin|>a b{}"}) {
    ExpectReads(kK2, text, {.content = text});
  }
}

const Reading kK3 = {
    .dialect = {.tools = "kimi-k3", .reasoning = "kimi-k3"},
    .reasoning_open = true,
    .silent = {"\" index=\"1\"<|sep|>", "\" type=\"number\"<|sep|>", "\" type=\"string\"<|sep|>"}};

TEST(KimiK3, ReadsReasoningContentAndCalls) {
  ExpectReads(
      kK3,
      "Hm.<|close|>think<|sep|><|open|>response<|sep|>I look.<|close|>response<|sep|><|open|>tools<|sep|>"
      "<|open|>call tool=\"get_weather\" index=\"1\"<|sep|><|open|>argument key=\"days\" "
      "type=\"number\"<|sep|>2"
      "<|close|>argument<|sep|><|open|>argument key=\"x\" type=\"string\"<|sep|>3<|close|>argument<|sep|>"
      "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>",
      {.content = "I look.", .reasoning = "Hm.", .calls = {{"get_weather", R"({"days": 2, "x": "3"})"}}});
}

}  // namespace
}  // namespace shoal::test
