#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kCoder = {.dialect = {.tools = "qwen3-coder", .reasoning = "think"}};
const Reading kSeed = {.dialect = {.tools = "seed-oss", .reasoning = "seed-oss"}};

std::string Parameter(const std::string& key, const std::string& value) {
  return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
}

std::string Weather(const std::string& parameters) {
  return "<tool_call>\n<function=get_weather>\n" + parameters + "</function>\n</tool_call>";
}

TEST(Qwen3Coder, ParametersHaveTheTypesOfTheSchema) {
  ExpectReads(
      kCoder,
      "Let me see.\n" +
          Weather(Parameter("city", "42") + Parameter("days", "2") + Parameter("exact", "True") +
                  Parameter("where", "{'a': [1, None]}") + Parameter("tags", "[\"x\"]") +
                  Parameter("note", "null") + Parameter("any", "1.5")),
      {.content = "Let me see.",
       .calls = {{"get_weather", R"({"city": "42", "days": 2, "exact": true, "where": {"a": [1, null]}, )"
                                 R"("tags": ["x"], "note": null, "any": 1.5})"}}});
}

TEST(Qwen3Coder, ValuesThatAreNotOfTheirTypeStayText) {
  EXPECT_EQ(Read(kCoder, Weather(Parameter("days", "two") + Parameter("where", "{oops") +
                                 Parameter("note", "null and"))),
            (Answer{.calls = {{"get_weather", R"({"days": "two", "where": "{oops", "note": "null and"})"}}}));
}

TEST(Qwen3Coder, TextKeepsItsLinesAndLosesOnlyTheFrame) {
  ExpectReads(
      kCoder,
      "<tool_call>\n<function=python>\n<parameter=code>\n  if a < b:\n\tprint(\"</x>\\n\")\n\n</parameter>\n"
      "</function>\n</tool_call>",
      {.content = "", .calls = {{"python", R"({"code": "  if a < b:\n\tprint(\"</x>\\n\")\n"})"}}});
  EXPECT_EQ(Read(kCoder, "<function=python><parameter=code>x\n</parameter></function>"),
            (Answer{.calls = {{"python", R"({"code": "x\n"})"}}}));
}

TEST(Qwen3Coder, ReadsParallelCallsWithAndWithoutTheOuterMark) {
  ExpectReads(
      kCoder,
      "<tool_call>\n<function=now>\n</function>\n</tool_call>\n<function=get_time>\n<parameter=zone>\nCET\n"
      "</parameter>\n</function>\n</tool_call>\n",
      {.content = "", .calls = {{"now", "{}"}, {"get_time", R"({"zone": "CET"})"}}});
}

TEST(Qwen3Coder, ACallWithoutItsEndIsStillACall) {
  EXPECT_EQ(
      Read(kCoder, "<tool_call>\n<function=get_time>\n<parameter=zone>\nCET\n</parameter>\n</tool_call>"),
      (Answer{.calls = {{"get_time", R"({"zone": "CET"})"}}}));
  EXPECT_EQ(Read(kCoder, "<tool_call>\n<function=get_time>\n<parameter=zone>\nCE"),
            (Answer{.calls = {{"get_time", R"({"zone": "CE)"}}}));
}

TEST(Qwen3Coder, WhatIsNoCallIsContent) {
  for (const std::string text :
       {"<tool_call>\n{\"name\": \"now\"}", "write <function=f> like this", "<function=a b>"}) {
    ExpectReads(kCoder, text, {.content = text});
  }
}

TEST(SeedOss, HasMarksOfItsOwn) {
  ExpectReads(
      kSeed,
      "<seed:think>Hm.</seed:think>\n<seed:tool_call>\n<function=get_time>\n<parameter=zone>CET</parameter>\n"
      "</function>\n</seed:tool_call>",
      {.reasoning = "Hm.", .calls = {{"get_time", R"({"zone": "CET"})"}}});
}

}  // namespace
}  // namespace shoal::test
