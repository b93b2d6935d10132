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

const Reading kM3 = {.dialect = {.tools = "minimax-m3", .reasoning = "minimax-m3"}};
constexpr std::string_view kMark = "]<]minimax[>[";

/// `text` with the mark before each tag.
std::string Marked(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '<' ? std::string(kMark) + "<" : std::string(1, c);
  return out;
}

TEST(MiniMaxM3, ReadsElementsWithinElements) {
  ExpectReads(
      kM3,
      "<mm:think>Hm.</mm:think>I look." +
          Marked("<tool_call>\n<invoke "
                 "name=\"get_weather\"><city>Paris</city><days>2</days><where><lat>1.5</lat>"
                 "<near><item>a</item><item>b</item></near></where><tags></tags><note>null</note></invoke>\n"
                 "<invoke name=\"now\"></invoke>\n</tool_call>"),
      {.content = "I look.",
       .reasoning = "Hm.",
       .calls = {{"get_weather", R"({"city": "Paris", "days": 2, "where": {"lat": 1.5, "near": ["a", "b"]}, )"
                                 R"("tags": [], "note": null})"},
                 {"now", "{}"}}});
}

TEST(MiniMaxM3, TextsStayAsTheyAre) {
  ExpectReads(kM3,
              Marked("<tool_call><invoke name=\"python\"><code>a\n [1] > \"2\"</code></invoke></tool_call>"),
              {.content = "", .calls = {{"python", R"({"code": "a\n [1] > \"2\""})"}}});
}

TEST(MiniMaxM3, WhatIsNoCallIsContent) {
  for (const std::string& text : {Marked("<tool_call>"), Marked("<tool_call><invoke name=\"a b\"></invoke>"),
                                  Marked("<tool_call>") + "{}"}) {
    ExpectReads(kM3, text, {.content = text});
  }
}

}  // namespace
}  // namespace shoal::test
