#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

// An id behind the arguments comes too late.
const Reading kMistral = {.dialect = {.tools = "mistral", .reasoning = "mistral"},
                          .silent = {"\"id\": \"a1b2c3d4e\"}, "}};

TEST(Mistral, ReadsAListOfObjects) {
  ExpectReads(kMistral,
              R"([TOOL_CALLS][{"name": "get_time", "arguments": {"zone": "CET"}, "id": "a1b2c3d4e"}, )"
              R"({"name": "now", "arguments": {}}])",
              {.content = "", .calls = {{"get_time", R"({"zone": "CET"})"}, {"now", "{}"}}});
}

TEST(Mistral, AnIdInFrontOfTheArgumentsIsTheCalls) {
  ExpectReads(kMistral, R"([TOOL_CALLS] [{"id": "a1b2c3d4e", "name": "now", "arguments": {}}])",
              {.content = "", .calls = {{"now", "{}", "a1b2c3d4e"}}});
  ExpectReads(kMistral, R"([TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{})",
              {.content = "", .calls = {{"now", "{}", "a1b2c3d4e"}}});
}

TEST(Mistral, ReadsNamesBeforeArgumentsInParallel) {
  ExpectReads(
      kMistral, "[THINK]Both.[/THINK]Well.[TOOL_CALLS]get_time[ARGS]{\"zone\": \"}\"}[TOOL_CALLS]now{}",
      {.content = "Well.", .reasoning = "Both.", .calls = {{"get_time", R"({"zone": "}"})"}, {"now", "{}"}}});
}

TEST(Mistral, WhatIsNoCallIsContent) {
  for (const std::string text :
       {"[TOOL_CALLS]", "[TOOL_CALLS] I do not know {}", "[TOOL_CALLS][]", "[TOOL", "[1, 2]"}) {
    ExpectReads(kMistral, text, {.content = text});
  }
}

TEST(Mistral, AnUnfinishedCallKeepsWhatThereIs) {
  EXPECT_EQ(Read(kMistral, "[TOOL_CALLS]get_time[ARGS]{\"zone\": \"C"),
            (Answer{.calls = {{"get_time", "{\"zone\": \"C"}}}));
}

}  // namespace
}  // namespace shoal::test
