#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kGlm = {.dialect = {.tools = "glm", .reasoning = "think"}};

TEST(Glm, ReadsParallelCallsWithTypes) {
  ExpectReads(kGlm,
              "<think>Hm.</think>\nI "
              "look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n"
              "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n<arg_key>where</arg_key>\n"
              "<arg_value>{\"a\": \"</think>\"}</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
              {.content = "I look.",
               .reasoning = "Hm.",
               .calls = {{"get_weather", R"({"city": "Köln", "days": 2, "where": {"a": "</think>"}})"},
                         {"now", "{}"}}});
}

TEST(Glm, ReadsCallsOnOneLine) {
  ExpectReads(kGlm,
              "<tool_call>get_time<arg_key>zone</arg_key><arg_value>a\nb</arg_value></"
              "tool_call><tool_call>now</tool_call>",
              {.content = "", .calls = {{"get_time", R"({"zone": "a\nb"})"}, {"now", "{}"}}});
}

TEST(Glm, WhatIsNoCallIsContent) {
  for (const std::string text :
       {"Use <tool_call> for calls.", "<tool_call>x y</tool_call>", "<tool_call>get_time"}) {
    ExpectReads(kGlm, text, {.content = text});
  }
}

}  // namespace
}  // namespace shoal::test
