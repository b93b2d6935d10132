#include "text/output/output_testing.h"

namespace shoal::test {
namespace {

const Reading kLlama = {.dialect = {.tools = "llama3"}};
const Reading kPythonic = {.dialect = {.tools = "llama4"}};

TEST(Llama, AnObjectAloneIsACallOfAKnownTool) {
  ExpectReads(kLlama, R"({"name": "get_time", "parameters": {"zone": "CET"}})",
              {.content = "", .calls = {{"get_time", R"({"zone": "CET"})"}}});
  ExpectReads(kLlama, R"({"type": "function", "name": "now", "parameters": {}})",
              {.content = "", .calls = {{"now", "{}"}}});
}

TEST(Llama, OtherJsonIsContent) {
  for (const std::string text :
       {R"({"name": "Ada", "parameters": {"age": 36}})", R"({"answer": 42})", "{", "[1, 2, 3]",
        "{x} is a set", R"(The object {"name": "now", "parameters": {}} is a call.)", "[link](url)"}) {
    ExpectReads(kLlama, text, {.content = text});
  }
}

TEST(Llama, TheMarkOpensCallsInTheMiddle) {
  ExpectReads(
      kLlama,
      R"(I look. <|python_tag|>{"name": "now", "parameters": {}}; {"name": "get_time", "parameters": {"zone": "x"}})",
      {.content = "I look.", .calls = {{"now", "{}"}, {"get_time", R"({"zone": "x"})"}}});
  ExpectReads({.dialect = kLlama.dialect, .silent = {".call"}}, R"(<|python_tag|>get_time.call(zone="CET"))",
              {.content = "", .calls = {{"get_time", R"({"zone": "CET"})"}}});
}

TEST(Llama, CodeAfterTheMarkIsContent) {
  const std::string text = "<|python_tag|>print(\"x\")";
  ExpectReads(kLlama, text, {.content = text});
}

TEST(LlamaPythonic, LiteralsBecomeJson) {
  ExpectReads(kPythonic,
              "[get_weather(city='It\\'s \"K\\u00f6ln\"\\n', days=2, exact=True, where={'a': None, \"b\": "
              "(1, -2.5,)}, "
              "tags=[]), now()]",
              {.content = "",
               .calls = {{"get_weather", R"({"city": "It's \"Köln\"\n", "days": 2, "exact": true, )"
                                         R"("where": {"a": null, "b": [1, -2.5]}, "tags": []})"},
                         {"now", "{}"}}});
}

TEST(LlamaPythonic, HalvesOfCharactersAreJoined) {
  ExpectReads(
      kPythonic,
      R"([get_weather(city='\ud83d\ude00'), get_weather(city='\ud83dx'), get_weather(city='\ud83d\n')])",
      {.content = "",
       .calls = {{"get_weather", R"({"city": "😀"})"},
                 {"get_weather", "{\"city\": \"\uFFFDx\"}"},
                 {"get_weather", "{\"city\": \"\uFFFD\\n\"}"}}});
}

TEST(LlamaPythonic, ArgumentsWithoutNamesGetThoseOfTheSchema) {
  ExpectReads(kPythonic, R"([get_weather("Paris", 2), now(3)])",
              {.content = "",
               .calls = {{"get_weather", R"({"city": "Paris", "days": 2})"}, {"now", R"({"arg0": 3})"}}});
}

TEST(LlamaPythonic, ReadsLongStrings) {
  ExpectReads(
      kPythonic, "[python(code=\"\"\"a = \"b\"\n\"\"\"), python(code='')]",
      {.content = "", .calls = {{"python", R"({"code": "a = \"b\"\n"})"}, {"python", R"({"code": ""})"}}});
}

TEST(LlamaPythonic, OtherListsAreContent) {
  for (const std::string text : {"[print(1)]", "[1, 2]", "[now, then]", "[now(", "[x]"}) {
    if (text != "[now(") ExpectReads(kPythonic, text, {.content = text});
  }
  EXPECT_EQ(Read(kPythonic, "[now(").calls.size(), 1u);
}

}  // namespace
}  // namespace shoal::test
