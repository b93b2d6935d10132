#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kGranite = {.dialect = {.tools = "granite", .reasoning = "granite"}};

TEST(Granite, ReadsAListOfCalls) {
  ExpectReads(
      kGranite,
      R"(<|tool_call|>[{"name": "now", "arguments": {}}, {"name": "get_time", "arguments": {"zone": "[]"}}])",
      {.content = "", .calls = {{"now", "{}"}, {"get_time", R"({"zone": "[]"})"}}});
}

TEST(Granite, DropsTheMarksAroundTheAnswer) {
  ExpectReads(kGranite, "<think>Hm.</think><response>Yes.</response>",
              {.content = "Yes.", .reasoning = "Hm."});
}

TEST(Granite, WhatIsNoCallIsContent) {
  const std::string text = "<|tool_call|>[]";
  ExpectReads(kGranite, text, {.content = text});
}

}  // namespace
}  // namespace shoal::test
