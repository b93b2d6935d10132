#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kM2 = {.dialect = {.tools = "minimax-m2", .reasoning = "think"}, .silent = {"\">"}};

TEST(MiniMaxM2, ReadsParallelCallsWithTypes) {
  ExpectReads(kM2,
              "<think>\nBoth.\n</think>\n\nI look.\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n"
              "<parameter name=\"city\">\"Paris\"</parameter>\n<parameter "
              "name=\"tags\">[\"a\"]</parameter>\n</invoke>\n"
              "<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>\n",
              {.content = "I look.",
               .reasoning = "Both.",
               .calls = {{"get_weather", R"({"city": "\"Paris\"", "tags": ["a"]})"}, {"now", "{}"}}});
}

TEST(MiniMaxM2, WhatIsNoCallIsContent) {
  for (const std::string text :
       {"<minimax:tool_call>", "<minimax:tool_call>\n<invoke name=\"a b\">\n</invoke>",
        "<minimax:tool_call>{}</minimax:tool_call>"}) {
    ExpectReads(kM2, text, {.content = text});
  }
}

}  // namespace
}  // namespace shoal::test
