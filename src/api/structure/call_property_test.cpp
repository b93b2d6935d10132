// Texts that a grammar of calls allows, token by token at random, are calls to the format's parser, with arguments of
// their tool's schema: for every format, with its marks as plain text and as special tokens.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "api/structure/grammar_service.h"
#include "api/structure/tool_grammar.h"
#include "api/testing/byte_text.h"
#include "base/random.h"
#include "base/status.h"
#include "text/output/dialect_parser.h"
#include "text/output/harmony.h"

namespace shoal {
namespace {

// Strings, enums, numbers, nested objects and arrays, references, and values of several types.
constexpr std::string_view kTools = R"([
  {"type": "function", "function": {"name": "get_weather", "strict": true, "parameters": {
    "type": "object", "required": ["city", "days", "where"], "additionalProperties": false, "properties": {
      "city": {"type": "string"},
      "days": {"type": "integer", "minimum": 1, "maximum": 30},
      "exact": {"type": "boolean"},
      "unit": {"enum": ["celsius", "a \"quoted\" one", "Grad °C\nzwei", "</x>"]},
      "where": {"type": "object", "required": ["lat"], "additionalProperties": false, "properties": {
        "lat": {"type": "number", "minimum": -90, "maximum": 90}, "name": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "near": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2}}},
      "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
      "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"},
      "date": {"type": "string", "format": "date"}},
    "$defs": {"place": {"type": "object", "required": ["id"], "additionalProperties": false,
      "properties": {"id": {"type": "integer"}, "kind": {"const": "city"}}}}}}},
  {"type": "function", "function": {"name": "now"}},
  {"type": "function", "function": {"name": "list-files", "strict": true, "parameters": {
    "type": "object", "required": ["paths"], "properties": {
      "paths": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string", "minLength": 1}},
      "depth": {"type": ["integer", "null"]}}, "additionalProperties": false}}}])";

bool Fits(const Json& value, const Json& schema, const Json& root);

bool IsOfType(const Json& value, const std::string& type) {
  if (type == "string") return value.is_string();
  if (type == "integer")
    return value.is_number_integer() || (value.is_number() && value == std::floor(value.get<double>()));
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  return type == "array" ? value.is_array() : value.is_object();
}

int64_t Characters(const std::string& text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

bool StringFits(const std::string& text, const Json& schema) {
  if (schema.contains("minLength") && Characters(text) < schema["minLength"]) return false;
  if (schema.contains("maxLength") && Characters(text) > schema["maxLength"]) return false;
  if (schema.contains("pattern") &&
      !std::regex_search(text, std::regex(schema["pattern"].get<std::string>())))
    return false;
  return schema.value("format", "") != "date" ||
         std::regex_match(text, std::regex("[0-9]{4}-[01][0-9]-[0-3][0-9]"));
}

bool ObjectFits(const Json& value, const Json& schema, const Json& root) {
  for (const Json& name : schema.value("required", Json::array())) {
    if (!value.contains(name.get<std::string>())) return false;
  }
  const Json properties = schema.value("properties", Json::object());
  for (const auto& [key, item] : value.items()) {
    if (properties.contains(key) ? !Fits(item, properties[key], root)
                                 : schema.value("additionalProperties", true) == false)
      return false;
  }
  return true;
}

/// As much of JSON schema as the tools above need.
bool Fits(const Json& value, const Json& schema, const Json& root) {
  if (schema.contains("$ref")) return Fits(value, root["$defs"]["place"], root);
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("enum") && std::ranges::find(schema["enum"], value) == schema["enum"].end())
    return false;
  if (schema.contains("anyOf")) {
    return std::ranges::any_of(schema["anyOf"], [&](const Json& one) { return Fits(value, one, root); });
  }
  if (schema.contains("type")) {
    const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
    if (std::ranges::none_of(types, [&](const Json& type) { return IsOfType(value, type); })) return false;
  }
  if (value.is_number() && schema.contains("minimum") && value < schema["minimum"]) return false;
  if (value.is_number() && schema.contains("maximum") && value > schema["maximum"]) return false;
  if (value.is_string()) return StringFits(value.get<std::string>(), schema);
  if (value.is_object()) return ObjectFits(value, schema, root);
  if (!value.is_array()) return true;
  if (schema.contains("maxItems") && value.size() > schema["maxItems"]) return false;
  if (schema.contains("minItems") && value.size() < schema["minItems"]) return false;
  return std::ranges::all_of(value, [&](const Json& item) {
    return !schema.contains("items") || Fits(item, schema["items"], root);
  });
}

constexpr const char* kEnd = "<|eos|>";

std::string StandIns(std::string_view text) {
  std::string out;
  for (const char c : text) out += ByteStandIn(static_cast<unsigned char>(c));
  return out;
}

/// Bytes, an end of texts, `plain` as tokens of several bytes, and `special` tokens.
Tokenizer MarkTokenizer(const std::set<std::string>& plain, const std::set<std::string>& special) {
  Json json;
  json["version"] = "1.0";
  const auto added = [](int32_t id, const std::string& content) {
    return Json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  json["added_tokens"] = Json::array();
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  json["pre_tokenizer"] = byte_level;
  json["decoder"] = byte_level;
  json["model"]["type"] = "BPE";
  for (int byte = 0; byte < 256; ++byte) json["model"]["vocab"][ByteStandIn(byte)] = byte;
  json["model"]["merges"] = Json::array();
  int32_t id = 256;  // Those of added tokens follow those of the model.
  for (const std::string& mark : plain) {
    if (mark.size() > 1 && !special.contains(mark)) json["model"]["vocab"][StandIns(mark)] = id++;
  }
  json["added_tokens"].push_back(added(id++, kEnd));
  for (const std::string& mark : special) json["added_tokens"].push_back(added(id++, mark));
  auto tokenizer = Tokenizer::FromJson(json.dump());
  if (!tokenizer.ok()) CheckFailed(__FILE__, __LINE__, Message(tokenizer.status()));
  return *std::move(tokenizer);
}

/// All texts of a writing's notation.
std::set<std::string> TextsOf(const Dialect& dialect, const CallWriting& writing) {
  std::set<std::string> all;
  const auto add = [&](const Notation& pieces) {
    for (const NotationPiece& piece : pieces) {
      if (piece.kind != NotationPiece::Kind::kRegex) all.insert(piece.text);
    }
  };
  for (const Notation* pieces :
       {&writing.preface, &writing.begin, &writing.before_name, &writing.after_name, &writing.after_arguments,
        &writing.separator, &writing.end, &writing.before_value}) {
    add(*pieces);
  }
  all.insert({writing.opener, writing.closer});
  for (const std::string& mark : DialectMarks(dialect, true)) all.insert(mark);
  if (const ToolFormat* const format = FindToolFormat(dialect.tools)) {
    if (const auto* xml = std::get_if<XmlCallsSyntax>(&format->calls.main)) {
      all.insert({xml->value_close, writing.frame + xml->value_close, xml->key_open});
    }
  }
  return all;
}

/// Tokens of the notation that models have for it.
std::set<std::string> SpecialsOf(const std::set<std::string>& texts) {
  const std::regex tokens(
      "<\\|[^|<>]*\\|>|<[|/a-z][^<>\\s\"=]*>|\\[[A-Z_]+\\]|\\]<\\]minimax\\[>\\[|｜DSML｜");
  std::set<std::string> all;
  for (const std::string& text : texts) {
    for (std::sregex_iterator at(text.begin(), text.end(), tokens), end; at != end; ++at)
      all.insert(at->str());
  }
  all.erase(kEnd);
  return all;
}

/// One of the tokens that may come: bytes that make JSON and its like come to an end, and marks, are likely.
int32_t Choose(const std::vector<uint32_t>& mask, const Tokenizer& tokenizer, RandomStream& random) {
  constexpr std::string_view kLikely = "\"\"\"\"]]})),,:0123456789abcXYZ \n<>/\\'|[{(-éß";
  const auto allowed = [&](int32_t id) { return (mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1) != 0; };
  const int32_t end = *tokenizer.token_id(kEnd);
  if (allowed(end) && random.uniform() < 0.5) return end;
  std::vector<int32_t> marks, likely, all;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!allowed(id) || id == end) continue;
    all.push_back(id);
    if (id > 255) marks.push_back(id);
  }
  for (const char c : kLikely) {
    if (allowed(static_cast<unsigned char>(c))) likely.push_back(static_cast<unsigned char>(c));
  }
  if (all.empty()) return end;
  const auto any = [&](const std::vector<int32_t>& of) {
    return of[static_cast<size_t>(random.uniform() * static_cast<double>(of.size()))];
  };
  if (!marks.empty() && random.uniform() < 0.35) return any(marks);
  return !likely.empty() && random.uniform() < 0.85 ? any(likely) : any(all);
}

/// A text of the grammar; nullopt: it went on for too long.
std::optional<std::string> RandomText(const TokenConstraint& prototype, const Tokenizer& tokenizer,
                                      RandomStream& random) {
  constexpr int kTokensMax = 2000;
  const std::unique_ptr<TokenConstraint> state = *prototype.clone();
  std::string text;
  std::vector<uint32_t> mask;
  for (int i = 0; i < kTokensMax; ++i) {
    const absl::Status ready = state->mask(mask);
    EXPECT_TRUE(ready.ok()) << ready << " after " << text;
    if (!ready.ok()) return std::nullopt;
    const int32_t token = Choose(mask, tokenizer, random);
    if (token == tokenizer.token_id(kEnd)) return text;
    const absl::Status taken = state->consume(token);
    EXPECT_TRUE(taken.ok()) << taken << " after " << text;
    if (!taken.ok()) return std::nullopt;
    text += *tokenizer.token_bytes(token);
  }
  return std::nullopt;
}

OutputEvents EventsOf(const Dialect& dialect, std::string_view text, size_t step) {
  DialectParser parser(dialect, {.tools = kTools, .parse_tools = true});
  OutputEvents events, merged;
  for (size_t i = 0; i < text.size(); i += step) parser.push(text.substr(i, step), events);
  parser.finish(events);
  for (const OutputEvent& event : events) AddEvent(merged, event);
  return merged;
}

struct ReadCall {
  std::string name, arguments;
};

std::vector<ReadCall> CallsIn(const OutputEvents& events, std::string& content) {
  std::vector<ReadCall> calls;
  for (const OutputEvent& event : events) {
    if (event.kind == OutputEvent::Kind::kCallBegin) calls.push_back({event.name, ""});
    if (event.kind == OutputEvent::Kind::kArguments && !calls.empty()) calls.back().arguments += event.text;
    if (event.kind == OutputEvent::Kind::kContent) content += event.text;
  }
  return calls;
}

void ExpectOfItsTool(const ReadCall& call, const std::string& text) {
  const Json tools = Json::parse(kTools);
  const auto tool =
      std::ranges::find_if(tools, [&](const Json& one) { return one["function"]["name"] == call.name; });
  ASSERT_NE(tool, tools.end()) << call.name << " of " << text;
  const Json arguments = Json::parse(call.arguments, nullptr, false);
  ASSERT_TRUE(arguments.is_object()) << call.arguments << "\nof " << text;
  const Json schema =
      (*tool)["function"].value("parameters", Json{{"type", "object"}, {"additionalProperties", false}});
  EXPECT_TRUE(Fits(arguments, schema, schema)) << call.arguments << "\nof " << text;
}

struct Case {
  Dialect dialect;
  const CallWriting* writing = nullptr;
  bool special = false;
};

class CallProperty : public testing::TestWithParam<Case> {
 protected:
  void expect_calls(ToolChoice choice, bool needed) {
    const auto& [dialect, writing, special] = GetParam();
    const std::set<std::string> texts = TextsOf(dialect, *writing);
    const Tokenizer tokenizer = MarkTokenizer(texts, special ? SpecialsOf(texts) : std::set<std::string>());
    GrammarService service(tokenizer,
                           {.vocabulary = tokenizer.vocab_size(), .eos_ids = {*tokenizer.token_id(kEnd)}});
    const Json tools = Json::parse(kTools);
    choice.strict = StrictTools(tools);
    const ToolFormat* const format = FindToolFormat(dialect.tools);
    const bool opened = format != nullptr && format->opened_by_prompt;
    AnswerFormat answer{
        .tools = dialect.tools, .reasoning = {}, .writing = writing, .call_begun_in_prompt = opened};
    if (opened) answer.reasoning.text = "all\n";
    if (dialect.harmony()) answer.reasoning.text = kHarmonyAnswer;
    const auto structure = ToolStructure(tools, choice, answer, tokenizer);
    ASSERT_TRUE(structure.has_value()) << structure.error().message;
    ASSERT_TRUE(structure->has_value());
    const auto constraint = service.constraint(**structure);
    ASSERT_TRUE(constraint.has_value()) << constraint.error().message << "\n" << (*structure)->text;
    int ended = 0;
    for (uint64_t seed = 0; seed < 25 && !HasFailure(); ++seed) {
      RandomStream random(seed);
      const auto text = RandomText(**constraint, tokenizer, random);
      if (!text.has_value()) continue;
      ++ended;
      std::string content;
      const auto calls = CallsIn(EventsOf(dialect, *text, text->size() + 1), content);
      EXPECT_EQ(EventsOf(dialect, *text, 1), EventsOf(dialect, *text, text->size() + 1)) << *text;
      EXPECT_TRUE(!needed || (!calls.empty() && content.empty())) << content << "\nof " << *text;
      EXPECT_TRUE(choice.parallel || calls.size() <= 1) << *text;
      for (const ReadCall& call : calls) ExpectOfItsTool(call, *text);
    }
    EXPECT_GT(ended, 16);
  }
};

TEST_P(CallProperty, RequiredCallsAreReadWithArgumentsOfTheirTool) {
  expect_calls({.kind = ToolChoice::Kind::kRequired}, true);
}

TEST_P(CallProperty, OneCallAtMostWhereSeveralAreNotWanted) {
  expect_calls({.kind = ToolChoice::Kind::kRequired, .parallel = false}, true);
}

TEST_P(CallProperty, WithAutoACallIsOfItsToolToo) { expect_calls({}, false); }

std::vector<Case> AllCases() {
  std::vector<Case> all;
  for (const bool special : {false, true}) {
    for (const Dialect& known : Dialects()) {
      const Dialect dialect = {.tools = known.tools,
                               .reasoning = known.harmony() ? known.reasoning : std::string(kNoFormat)};
      const ToolFormat* const format = FindToolFormat(dialect.tools);
      if (format == nullptr) all.push_back({dialect, &HarmonyWriting(), special});
      if (format == nullptr) continue;
      for (const CallWriting& writing : format->writings) all.push_back({dialect, &writing, special});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Formats, CallProperty, testing::ValuesIn(AllCases()), [](const auto& of) {
  std::string name =
      fmt::format("{}_{}_{}", of.index, of.param.dialect.tools, of.param.special ? "tokens" : "text");
  std::ranges::replace_if(
      name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
});

}  // namespace
}  // namespace shoal
