#include "api/structure/structure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/structure/grammar_service.h"
#include "api/structure/tool_grammar.h"
#include "api/testing/byte_text.h"
#include "base/status.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// What the body's fields say; errors in `error`.
std::optional<Structure> Read(const std::string& body, std::optional<ApiError>& error) {
  const Json object = Json::parse(body);
  FieldReader fields(object, "", error);
  auto structure = ReadStructure(fields, error);
  fields.refuse_others();
  return structure;
}

std::optional<Structure> Read(const std::string& body) {
  std::optional<ApiError> error;
  auto structure = Read(body, error);
  EXPECT_FALSE(error.has_value()) << error->message;
  return structure;
}

ApiError ErrorOf(const std::string& body) {
  std::optional<ApiError> error;
  Read(body, error);
  EXPECT_TRUE(error.has_value()) << body;
  return error.value_or(ApiError{});
}

TEST(ReadStructure, FindsWhatTheTextMustBeWhoeverInventedTheField) {
  const std::string schema = R"({"type":"integer"})";
  const std::string compiled = SchemaText(Json::parse(schema));
  for (const char* field : {"response_format.json_schema.schema", "response_format.schema", "guided_json",
                            "structured_outputs.json", "json_schema"}) {
    const std::string name = field;
    const std::string body =
        name == "response_format.json_schema.schema"
            ? R"({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": )" +
                  schema + "}}}"
        : name == "response_format.schema"
            ? R"({"response_format": {"type": "json_schema", "schema": )" + schema + "}}"
        : name == "structured_outputs.json" ? R"({"structured_outputs": {"json": )" + schema + "}}"
                                            : "{\"" + name + "\": " + schema + "}";
    EXPECT_EQ(Read(body), (Structure{name, GrammarKind::kJsonSchema, compiled})) << body;
  }
  EXPECT_EQ(Read(R"({"guided_json": "{\"type\":\"integer\"}"})")->text, compiled);
  const std::string object = SchemaText(Json{{"type", "object"}});
  EXPECT_EQ(Read(R"({"response_format": {"type": "json_object"}})")->text, object);
  EXPECT_EQ(Read(R"({"structured_outputs": {"json_object": true}})")->text, object);
  for (const char* field : {"guided_regex", "regex"}) {
    EXPECT_EQ(Read("{\"" + std::string(field) + "\": \"a+\"}"),
              (Structure{field, GrammarKind::kRegex, "a+"}));
  }
  EXPECT_EQ(Read(R"({"structured_outputs": {"regex": "a+"}})")->field, "structured_outputs.regex");
  EXPECT_EQ(Read(R"({"guided_choice": ["yes", "n.o"]})"),
            (Structure{"guided_choice", GrammarKind::kRegex, "(?:yes|n\\x{2e}o)"}));
  EXPECT_EQ(Read(R"({"guided_grammar": "start: \"a\""})"),
            (Structure{"guided_grammar", GrammarKind::kLark, "start: \"a\""}));
  for (const char* field : {"grammar", "ebnf", "guided_grammar"}) {  // GBNF becomes Lark.
    EXPECT_THAT(Read("{\"" + std::string(field) + R"(": "root ::= [0-9]"})")->text, HasSubstr("start: R0"));
  }
}

TEST(ReadStructure, WhatConstrainsNothingIsNoStructure) {
  for (const char* body :
       {"{}", R"({"response_format": null})", R"({"response_format": {"type": "text"}})",
        R"({"grammar": ""})", R"({"guided_json": null, "guided_decoding_backend": "xgrammar"})",
        R"({"structured_outputs": {}})",
        R"({"response_format": {}, "guided_json": {}, "guided_choice": [], "guided_regex": ""})"}) {
    EXPECT_EQ(Read(body), std::nullopt) << body;
  }
}

TEST(ReadStructure, WhatIsWrongIsNamed) {
  EXPECT_EQ(ErrorOf(R"({"response_format": {"type": "xml"}})").param, "response_format.type");
  EXPECT_EQ(ErrorOf(R"({"response_format": {"type": ""}})").param, "response_format.type");
  EXPECT_EQ(ErrorOf(R"({"response_format": {"type": "json_schema"}})").param, "response_format.json_schema");
  EXPECT_EQ(ErrorOf(R"({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}})").param,
            "response_format.json_schema.schema");
  EXPECT_EQ(ErrorOf(R"({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}})").param,
            "response_format.json_schema.schema");
  EXPECT_EQ(ErrorOf(R"({"response_format": {"type": "text", "extra": 1}})").param, "response_format.extra");
  EXPECT_EQ(ErrorOf(R"({"guided_json": "nonsense"})").param, "guided_json");
  EXPECT_EQ(ErrorOf(R"({"guided_choice": "yes"})").param, "guided_choice");
  EXPECT_EQ(ErrorOf(R"({"guided_choice": [1]})").param, "guided_choice");
  EXPECT_EQ(ErrorOf(R"({"structured_outputs": {"structural_tag": "x"}})").param,
            "structured_outputs.structural_tag");
  EXPECT_THAT(ErrorOf(R"({"grammar": "root ::= other"})").message,
              HasSubstr("'grammar': GBNF grammar, line 1"));
  const ApiError both = ErrorOf(R"({"guided_regex": "a", "response_format": {"type": "json_object"}})");
  EXPECT_EQ(both.param, "guided_regex");
  EXPECT_THAT(both.message, HasSubstr("'response_format.schema' and 'guided_regex'"));
}

/// Tokens are bytes: what may come next is the mask of 257 ids.
class GrammarServiceTest : public testing::Test {
 protected:
  std::shared_ptr<const TokenConstraint> compile(const Structure& structure) {
    auto constraint = service_.constraint(structure);
    EXPECT_TRUE(constraint.has_value()) << constraint.error().message;
    return constraint.value_or(nullptr);
  }
  /// Whether the text may come, and end there.
  static bool matches(const TokenConstraint& prototype, std::string_view text) {
    const std::unique_ptr<TokenConstraint> state = *prototype.clone();
    for (const int32_t id : Bytes(text)) {
      if (!state->consume(id).ok()) return false;
    }
    std::vector<uint32_t> words;
    EXPECT_TRUE(state->mask(words).ok());
    EXPECT_EQ(words.size(), 9u);
    return (words[8] & 1) != 0;
  }
  static bool matches(const TokenConstraint* prototype, std::string_view text) {
    return prototype != nullptr && matches(*prototype, text);
  }
  bool matches_schema(const std::string& schema, std::string_view text, const JsonSpaces& spaces = {}) {
    return matches(
        compile({"guided_json", GrammarKind::kJsonSchema, SchemaText(Json::parse(schema), spaces)}).get(),
        text);
  }
  ApiError error(const std::string& body) {
    std::optional<ApiError> wrong;
    const auto structure = Read(body, wrong);
    if (wrong.has_value()) return *wrong;
    const auto constraint = service_.constraint(*structure);
    EXPECT_FALSE(constraint.has_value()) << body;
    return constraint.has_value() ? ApiError{} : constraint.error();
  }

  const ServedText text_ = ByteText();
  GrammarService service_{text_.tokenizer,
                          {.vocabulary = kByteVocabulary, .eos_ids = {kByteEos}, .kept_max = 2}};
};

TEST_F(GrammarServiceTest, SpacesBetweenTokensOfJsonAreBounded) {
  const std::string schema =
      R"({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                                 "additionalProperties": false})";
  EXPECT_TRUE(matches_schema(schema, R"({"a":1})"));
  EXPECT_TRUE(matches_schema(schema, R"({"a": 1})"));
  EXPECT_TRUE(matches_schema(schema, "{\n    \"a\": 1\n}"));
  EXPECT_FALSE(matches_schema(schema, "{\n\n\n\n\"a\": 1}"));
  EXPECT_FALSE(matches_schema(schema, "{   \"a\": 1}"));
  EXPECT_TRUE(matches_schema(schema, R"({"a":1})", {.none = true}));
  EXPECT_FALSE(matches_schema(schema, R"({"a": 1})", {.none = true}));
  EXPECT_TRUE(matches_schema(schema, "{\t\t\"a\":1}", {.whitespace = "\\t+"}));
}

TEST_F(GrammarServiceTest, ChoicesAreMatchedAsTheyAre) {
  const auto choice = compile({"guided_choice", GrammarKind::kRegex, ChoiceRegex({"a.b", "a", "ä\n\"", ""})});
  for (const char* text : {"a.b", "a", "ä\n\"", ""}) EXPECT_TRUE(matches(choice.get(), text)) << text;
  for (const char* text : {"axb", "a.", "b"}) EXPECT_FALSE(matches(choice.get(), text)) << text;
}

TEST_F(GrammarServiceTest, ASchemaThatCannotBeEnforcedIsA400ThatNamesTheKeyword) {
  const ApiError one = error(R"({"guided_json": {"type": "array", "uniqueItems": true}})");
  EXPECT_EQ(one.status, 400);
  EXPECT_EQ(one.param, "guided_json");
  EXPECT_THAT(one.message, HasSubstr("the keyword 'uniqueItems'"));
  EXPECT_THAT(error(R"({"response_format": {"type": "json_schema", "json_schema": {"schema":
      {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}}})")
                  .message,
              HasSubstr("'not'"));
  EXPECT_THAT(error(R"({"guided_json": {"oneOf": [{"type": "integer"}, {"type": "number"}]}})").message,
              HasSubstr("'oneOf'"));
  EXPECT_THAT(error(R"({"guided_json": {"type": "string", "format": "color-of-the-sky"}})").message,
              HasSubstr("the keyword 'format' of JSON schema can't be enforced for 'color-of-the-sky'"));
  EXPECT_THAT(error(R"({"guided_json": {"type": "integer", "minimum": 5, "maximum": 3}})").message,
              HasSubstr("guided_json"));
  EXPECT_THAT(error(R"({"guided_json": {"$ref": "https://example.com/x"}})").message,
              AllOf(HasSubstr("'$ref'"), HasSubstr("example.com")));
  EXPECT_THAT(error(R"({"guided_regex": "(a"})").message, HasSubstr("'guided_regex': regular expression"));
  EXPECT_THAT(error(R"({"guided_grammar": "start: other"})").message, HasSubstr("other"));
}

TEST_F(GrammarServiceTest, GrammarsAreCompiledOnceAndTheLeastRecentlyUsedIsDropped) {
  const auto regex = [](const char* text) { return Structure{"guided_regex", GrammarKind::kRegex, text}; };
  const auto first = compile(regex("a"));
  EXPECT_EQ(compile(regex("a")), first);
  EXPECT_EQ(service_.compiled(), 1);
  compile(regex("b"));
  compile(regex("a"));
  compile(regex("c"));  // Of two that are kept, "b" was used longest ago.
  EXPECT_EQ(compile(regex("a")), first);
  EXPECT_EQ(service_.compiled(), 3);
  compile(regex("b"));
  EXPECT_EQ(service_.compiled(), 4);
  // The same text of another kind is another grammar.
  EXPECT_FALSE(service_.constraint({"guided_grammar", GrammarKind::kLark, "a"}).has_value());
}

TEST_F(GrammarServiceTest, CopiesOfOneGrammarAreIndependent) {
  const auto prototype = compile({"guided_regex", GrammarKind::kRegex, "ab|cd"});
  const auto one = *prototype->clone();
  const auto other = *prototype->clone();
  EXPECT_TRUE(one->consume('a').ok());
  EXPECT_TRUE(other->consume('c').ok());
  EXPECT_FALSE(one->consume('d').ok());
  EXPECT_TRUE(other->consume('d').ok());
  EXPECT_TRUE(matches(prototype.get(), "ab"));
}

constexpr std::string_view kTools = R"([
  {"type": "function", "function": {"name": "get_weather", "strict": true, "parameters":
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}}},
  {"type": "function", "function": {"name": "now"}},
  {"type": "function", "function": {"name": "odd", "parameters":
    {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}, "uniqueItems": true}}}}}])";

class ToolGrammarTest : public GrammarServiceTest {
 protected:
  /// The constraint of an answer; null where any text will do.
  std::shared_ptr<const TokenConstraint> of(ToolChoice choice, const ReasoningMarks& reasoning = {}) {
    choice.strict = StrictTools(Json::parse(kTools));
    const auto structure = ToolStructure(Json::parse(kTools), choice, {"hermes", reasoning}, text_.tokenizer);
    EXPECT_TRUE(structure.has_value()) << structure.error().message;
    if (!structure.has_value() || !structure->has_value()) return nullptr;
    return compile(**structure);
  }
  static ToolChoice read(const std::string& body, std::optional<ApiError>& error) {
    const Json object = Json::parse(body);
    FieldReader fields(object, "", error);
    ToolChoice choice = ReadToolChoice(fields, error);
    fields.refuse_others();
    return choice;
  }

  using Kind = ToolChoice::Kind;
  const std::string weather_ =
      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>";
  const std::string now_ = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
};

TEST_F(ToolGrammarTest, RequiredIsAtLeastOneCallWithArgumentsOfItsTool) {
  const auto required = of({.kind = Kind::kRequired});
  for (const std::string& text : {weather_, now_, weather_ + "\n" + now_ + "\n" + weather_}) {
    EXPECT_TRUE(matches(required.get(), text)) << text;
  }
  for (const std::string& text :
       {std::string("Hello"), std::string(), weather_ + "x", "I look. " + weather_,
        std::string("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n</tool_call>"),
        std::string("<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"),
        std::string("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>")}) {
    EXPECT_FALSE(matches(required.get(), text)) << text;
  }
  EXPECT_FALSE(matches(of({.kind = Kind::kRequired, .parallel = false}).get(), weather_ + "\n" + now_));
}

TEST_F(ToolGrammarTest, ANamedToolIsCalledOnce) {
  const auto named = of({.kind = Kind::kNamed, .name = "now"});
  EXPECT_TRUE(matches(named.get(), now_));
  EXPECT_FALSE(matches(named.get(), weather_));
  EXPECT_FALSE(matches(named.get(), now_ + "\n" + now_));
}

TEST_F(ToolGrammarTest, AToolThatIsNotStrictIsBoundAsFarAsItCanBe) {
  const auto odd = of({.kind = Kind::kNamed, .name = "odd"});
  EXPECT_TRUE(
      matches(odd.get(), "<tool_call>\n{\"name\": \"odd\", \"arguments\": {\"n\": [1, 1]}}\n</tool_call>"));
  EXPECT_FALSE(
      matches(odd.get(), "<tool_call>\n{\"name\": \"odd\", \"arguments\": {\"n\": [\"a\"]}}\n</tool_call>"));
}

TEST_F(ToolGrammarTest, WithAutoTheGrammarBeginsAtTheOpeningMarker) {
  const auto automatic = of({});
  for (const std::string& text : {std::string("Just text, with <tool and {\"name\": 1}."), std::string(),
                                  weather_, "I look.\n" + weather_ + "\n" + now_}) {
    EXPECT_TRUE(matches(automatic.get(), text)) << text;
  }
  for (const std::string& text :
       {std::string("I call <tool_call> now"), std::string("<tool_call>\n{\"name\": \"other\""),
        std::string("A <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>")}) {
    EXPECT_FALSE(matches(automatic.get(), text)) << text;
  }
  const Json lax = Json::parse(R"([{"type": "function", "function": {"name": "now"}}])");
  EXPECT_EQ(ToolStructure(lax, {}, {"hermes", {}}, text_.tokenizer), std::nullopt);
  EXPECT_EQ(ToolStructure(Json::parse(kTools), {.kind = Kind::kNone}, {"hermes", {}}, text_.tokenizer),
            std::nullopt);
}

TEST_F(ToolGrammarTest, ReasoningMayComeFirst) {
  const ReasoningMarks marks{.open = "<think>", .close = "</think>"};
  const auto fresh = of({.kind = Kind::kRequired}, marks);
  EXPECT_TRUE(matches(fresh.get(), weather_));
  EXPECT_TRUE(matches(fresh.get(), "<think>The city is Köln, a <b> </thing>.</think>\n\n" + weather_));
  EXPECT_FALSE(matches(fresh.get(), "<think>The city</think> no call"));
  const auto begun =
      of({.kind = Kind::kRequired}, {.open = "<think>", .close = "</think>", .begun_in_prompt = true});
  EXPECT_TRUE(matches(begun.get(), "The city.\n</think>\n\n" + weather_));
  EXPECT_FALSE(matches(begun.get(), weather_));
  const Structure schema{"response_format", GrammarKind::kJsonSchema, SchemaText(Json{{"type", "integer"}})};
  const auto answer = compile(*BehindReasoning(schema, marks, text_.tokenizer));
  EXPECT_TRUE(matches(answer.get(), "<think>7 or 8?</think>8"));
  EXPECT_TRUE(matches(answer.get(), "8"));
  EXPECT_FALSE(matches(answer.get(), "<think>7 or 8?</think>eight"));
  const auto regex =
      compile(*BehindReasoning({"guided_regex", GrammarKind::kRegex, "a/b\\/c"}, marks, text_.tokenizer));
  EXPECT_TRUE(matches(regex.get(), "<think>?</think>a/b/c"));
  EXPECT_EQ(BehindReasoning(schema, {}, text_.tokenizer), schema);
}

TEST_F(ToolGrammarTest, WithAutoAStructureMayGiveWayToACall) {
  const Structure schema{"response_format", GrammarKind::kJsonSchema, SchemaText(Json{{"type", "integer"}})};
  const auto of_chat = [&](const ToolChoice& choice, std::string_view tools) {
    const auto structure = ChatStructure(schema, tools, choice, {"hermes", {}}, text_.tokenizer);
    EXPECT_TRUE(structure.has_value() && structure->has_value());
    return compile(**structure);
  };
  const auto either = of_chat({}, kTools);
  EXPECT_TRUE(matches(either.get(), "17"));
  EXPECT_TRUE(matches(either.get(), weather_ + "\n" + now_));
  EXPECT_FALSE(matches(either.get(), "Seventeen"));
  EXPECT_FALSE(matches(of_chat({.kind = Kind::kNone}, kTools).get(), weather_));
  EXPECT_FALSE(matches(of_chat({}, "").get(), weather_));
  EXPECT_FALSE(matches(of_chat({.kind = Kind::kRequired}, kTools).get(), "17"));
  EXPECT_EQ(ChatStructure(std::nullopt, "", {}, {"hermes", {}}, text_.tokenizer), std::nullopt);
}

TEST_F(ToolGrammarTest, ASpecialTokenThatEndsReasoningIsNoText) {
  // Texts end with another token here, so that the special one may stand for the marker.
  GrammarService service(text_.tokenizer, {.vocabulary = kByteVocabulary, .eos_ids = {0}});
  const Structure schema{"guided_json", GrammarKind::kJsonSchema, SchemaText(Json{{"type", "integer"}})};
  const auto structure = BehindReasoning(
      schema, {.open = "<think>", .close = "<|end|>", .begun_in_prompt = true}, text_.tokenizer);
  const auto answer = service.constraint(*structure);
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  const std::unique_ptr<TokenConstraint> state = *(*answer)->clone();
  for (const int32_t id : Bytes("<|end|> is text here.")) EXPECT_TRUE(state->consume(id).ok());
  EXPECT_TRUE(state->consume(kByteEos).ok());
  EXPECT_FALSE(state->consume('x').ok());
  EXPECT_TRUE(state->consume('7').ok());
}

TEST_F(ToolGrammarTest, ChoicesAreReadInTheWordsOfEachClient) {
  std::optional<ApiError> error;
  EXPECT_EQ(read("{}", error).kind, Kind::kAuto);
  EXPECT_EQ(read(R"({"tool_choice": "auto"})", error).kind, Kind::kAuto);
  EXPECT_EQ(read(R"({"tool_choice": "none"})", error).kind, Kind::kNone);
  EXPECT_EQ(read(R"({"tool_choice": "required"})", error).kind, Kind::kRequired);
  EXPECT_FALSE(read(R"({"parallel_tool_calls": false})", error).parallel);
  for (const char* body : {R"({"tool_choice": {"type": "function", "function": {"name": "now"}}})",
                           R"({"tool_choice": {"type": "function", "name": "now"}})"}) {
    const ToolChoice named = read(body, error);
    EXPECT_EQ(named.kind, Kind::kNamed);
    EXPECT_EQ(named.name, "now");
  }
  EXPECT_FALSE(error.has_value());
  for (const char* body : {R"({"tool_choice": "sometimes"})", R"({"tool_choice": 1})",
                           R"({"tool_choice": {"type": "function"}})"}) {
    error.reset();
    read(body, error);
    ASSERT_TRUE(error.has_value()) << body;
    EXPECT_THAT(error->param, HasSubstr("tool_choice"));
  }
}

TEST_F(ToolGrammarTest, WhatCannotBeCalledIsA400) {
  const auto error = [&](const char* tools, const ToolChoice& choice, const char* format) {
    const auto structure = ToolStructure(Json::parse(tools), choice, {format, {}}, text_.tokenizer);
    EXPECT_FALSE(structure.has_value());
    return structure.has_value() ? "" : structure.error().message;
  };
  const std::string tools(kTools);
  EXPECT_THAT(error("[]", {.kind = Kind::kRequired}, "hermes"), HasSubstr("no 'tools'"));
  EXPECT_THAT(error(tools.c_str(), {.kind = Kind::kNamed, .name = "other"}, "hermes"), HasSubstr("'other'"));
  EXPECT_THAT(error(tools.c_str(), {.kind = Kind::kRequired}, "none"), HasSubstr("'none'"));
}

}  // namespace
}  // namespace shoal
