#include "text/gbnf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "text/grammar.h"
#include "text/test_data.h"

namespace shoal {
namespace {

using testing::HasSubstr;

/// A JSON grammar as llama.cpp's users write them.
constexpr std::string_view kJson = R"GBNF(# a comment
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
)GBNF";

class GbnfTest : public testing::Test {
 protected:
  GbnfTest() {
    const int32_t eos = tokenizer_.token_id("<|eot_id|>").value();
    auto compiler = GrammarCompiler::Create(tokenizer_, tokenizer_.vocab_size(), std::vector{eos});
    SHOAL_CHECK(compiler.ok());
    compiler_.emplace(*std::move(compiler));
  }

  Grammar compile(std::string_view gbnf) {
    const auto lark = LarkFromGbnf(gbnf);
    EXPECT_TRUE(lark.ok()) << ToString(lark.status());
    auto grammar = compiler_->compile(GrammarKind::kLark, *lark);
    EXPECT_TRUE(grammar.ok()) << ToString(grammar.status()) << *lark;
    return *std::move(grammar);
  }
  /// Whether the whole text may come, and end there.
  bool matches(const Grammar& grammar, std::string_view text) {
    Grammar state = *grammar.copy();
    const std::vector<int32_t> ids = *tokenizer_.encode(text, {});
    for (const int32_t id : ids) {
      if (!state.consume(id).ok()) return false;
    }
    return *state.is_accepting();
  }
  static std::string error(std::string_view gbnf) { return Message(LarkFromGbnf(gbnf).status()); }

  Tokenizer tokenizer_ = test::GoldenTokenizer("llama3_style");
  std::optional<GrammarCompiler> compiler_;
};

TEST_F(GbnfTest, JsonAsLlamaCppsUsersWriteItMatchesJson) {
  const Grammar grammar = compile(kJson);
  for (const char* text : {R"({})", R"({"a": [1, -2.5e3, {"b": null}], "c": "x\nü \u00e4"})",
                           "{\"a\":true}\n  ", R"({"deep": [[[[[[]]]]]]})"}) {
    EXPECT_TRUE(matches(grammar, text)) << text;
  }
  for (const char* text : {"[1]", "{", R"({"a": 01})", R"({"a" 1})", R"({"a": "x})", R"({"a": tru})"}) {
    EXPECT_FALSE(matches(grammar, text)) << text;
  }
}

TEST_F(GbnfTest, OneWithoutRecursionIsExactWhereALexerWouldBeGreedy) {
  const Grammar grammar = compile("root ::= word \" \" word \"!\"?\nword ::= [a-z ]+\n");
  EXPECT_TRUE(matches(grammar, "a b"));
  EXPECT_TRUE(matches(grammar, "many words here!"));
  EXPECT_FALSE(matches(grammar, "one"));
}

TEST_F(GbnfTest, EveryNotationMeansWhatLlamaCppSays) {
  struct Case {
    const char* gbnf;
    std::vector<const char*> yes;
    std::vector<const char*> no;
  };
  const Case cases[] = {
      {"root ::= \"a\"{3}", {"aaa"}, {"aa", "aaaa"}},
      {"root ::= \"a\"{2,}", {"aa", "aaaaa"}, {"a"}},
      {"root ::= (\"a\" | \"b\"){1,2} \"c\"*", {"a", "bc", "abccc"}, {"", "aaa", "c"}},
      {"root ::= [^a-c]+", {"xyz", "d", "ä€"}, {"b", "xb"}},
      {"root ::= . .", {"ab", "€\n"}, {"a", "abc"}},
      {"root ::= \"\\x41\\u00e4\\\"\\\\\"", {"Aä\"\\"}, {"A"}},
      {"root ::= [\\]\\-^]+", {"]-^"}, {"a"}},
      {"root ::= \"x\" |\n  \"y\"\n  | \"z\"\nother ::= \"w\"", {"x", "y", "z"}, {"w"}},
      {"root ::= my-rule-1\nmy-rule-1 ::= \"1\"", {"1"}, {"2"}},
      {"root ::= \"a\" root? \"b\"", {"ab", "aaabbb"}, {"aab", ""}},
      {"root ::= root \"+\" num | num\nnum ::= [0-9]+", {"1", "1+22+3"}, {"+", "1+"}},
      {"root ::= \"\" \"a\" | ", {"", "a"}, {"aa"}},
  };
  for (const Case& one : cases) {
    const Grammar grammar = compile(one.gbnf);
    for (const char* text : one.yes) EXPECT_TRUE(matches(grammar, text)) << one.gbnf << ": " << text;
    for (const char* text : one.no) EXPECT_FALSE(matches(grammar, text)) << one.gbnf << ": " << text;
  }
}

TEST_F(GbnfTest, ErrorsNameTheLine) {
  EXPECT_THAT(error("root ::= \"a\"\nother = \"b\""), HasSubstr("line 2: expected '::='"));
  EXPECT_THAT(error("other ::= \"a\""), HasSubstr("no rule 'root'"));
  EXPECT_THAT(error("root ::= missing"), HasSubstr("'missing' is used"));
  EXPECT_THAT(error("root ::= \"a\"\nroot ::= \"b\""), HasSubstr("line 2: the rule 'root' is defined twice"));
  EXPECT_THAT(error("root ::= \"a"), HasSubstr("does not end"));
  EXPECT_THAT(error("root ::= [a"), HasSubstr("does not end"));
  EXPECT_THAT(error("root ::= []"), HasSubstr("without a character"));
  EXPECT_THAT(error("root ::= [z-a]"), HasSubstr("ends before it begins"));
  EXPECT_THAT(error("root ::= (\"a\""), HasSubstr("expected ')'"));
  EXPECT_THAT(error("root ::= \"a\"{2,1}"), HasSubstr("less than its least"));
  EXPECT_THAT(error("root ::= \"a\"{9999999}"), HasSubstr("repetitions"));
  EXPECT_THAT(error("root ::= \"\\q\""), HasSubstr("'\\q'"));
  EXPECT_THAT(error("root ::= \"\\ud800\""), HasSubstr("no character"));
  EXPECT_THAT(error("root ::= \"\xff\""), HasSubstr("UTF-8"));
  EXPECT_THAT(error("root ::= " + std::string(1000, '(')), HasSubstr("levels"));
  EXPECT_THAT(error("root ::= \"a\"" + std::string(1'000'000, '*')), HasSubstr("signs of repetition"));
  EXPECT_THAT(error("root ::= \"a\" )"), HasSubstr("end of the line"));
  EXPECT_THAT(error("root ::= *"), HasSubstr("'*' begins no text"));
}

TEST(IsGbnf, LooksForARuleAndNotForItsSignWithinAText) {
  EXPECT_TRUE(IsGbnf("# x\n root ::= \"a\""));
  EXPECT_TRUE(IsGbnf("my-rule::=\"a\""));
  EXPECT_FALSE(IsGbnf("start: \"a ::= b\""));
  EXPECT_FALSE(IsGbnf("start: /x/"));
  EXPECT_FALSE(IsGbnf(""));
}

}  // namespace
}  // namespace shoal
