#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kDeepSeek = {.dialect = {.tools = "deepseek", .reasoning = "think"}, .silent = {"function<｜"}};

TEST(DeepSeek, ReadsTheCallsOfV3) {
  ExpectReads(
      kDeepSeek,
      "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{\"zone\": "
      "\"```\"}\n"
      "```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<"
      "｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜>",
      {.content = "I look.", .calls = {{"get_time", "{\"zone\": \"```\"}"}, {"now", "{}"}}});
}

TEST(DeepSeek, ReadsTheCallsOfV31) {
  Reading opened = kDeepSeek;
  opened.reasoning_open = true;
  ExpectReads(
      opened,
      "Hm.\n</think>\n\nI look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{\"zone\": "
      "\"CET\"}"
      "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
      {.content = "I look.",
       .reasoning = "Hm.",
       .calls = {{"get_time", R"({"zone": "CET"})"}, {"now", "{}"}}});
}

TEST(DeepSeek, WhatIsNoCallIsContent) {
  for (const std::string text : {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜>no",
                                 "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a b{}", "<｜x"}) {
    ExpectReads(kDeepSeek, text, {.content = text});
  }
}

const Reading kDsml = {.dialect = {.tools = "deepseek-v3.2", .reasoning = "think"},
                       .silent = {"\" string=\"true\">", "\" string=\"false\">", "time\">"}};

TEST(DeepSeekDsml, AttributesSayWhatIsText) {
  ExpectReads(
      kDsml,
      "I look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_time\">\n"
      "<｜DSML｜parameter name=\"zone\" string=\"true\">12</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"n\" string=\"false\">12</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"x\" string=\"false\">[1]</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
      {.content = "I look.", .calls = {{"get_time", R"({"zone": "12", "n": 12, "x": [1]})"}, {"now", "{}"}}});
}

TEST(DeepSeekDsml, V4NamesTheBlockDifferently) {
  ExpectReads(kDsml,
              "<think>Hm</think><｜DSML｜tool_calls>\n<｜DSML｜invoke "
              "name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
              {.reasoning = "Hm", .calls = {{"now", "{}"}}});
}

}  // namespace
}  // namespace shoal::test
