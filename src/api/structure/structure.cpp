#include "api/structure/structure.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/status.h"
#include "text/gbnf.h"

namespace shoal {
namespace {

/// One or two spaces, or a line's end with the indentation behind it.
constexpr const char* kWhitespace = R"((?: {1,2}|\r?\n[ \t]{0,40}))";
constexpr size_t kChoicesMax = 4096;

/// The value; nullptr where it is absent, null or empty: "", [] and {} say nothing.
const Json* Said(FieldReader& fields, std::string_view name) {
  const Json* value = fields.find(name);
  return value == nullptr || FieldReader::IsEmpty(*value) ? nullptr : value;
}

std::optional<std::string> SaidText(FieldReader& fields, std::string_view name) {
  std::optional<std::string> text = fields.text(name);
  return text == "" ? std::nullopt : text;
}

/// What the fields of a request ask for; more than one of them can't be honoured.
class StructureReader {
 public:
  StructureReader(FieldReader& fields, std::optional<ApiError>& error) : fields_(fields), error_(error) {}

  std::optional<Structure> read() {
    read_response_format();
    read_vllm();
    read_structured_outputs();
    if (const Json* schema = Said(fields_, "json_schema")) add_schema(fields_, "json_schema", *schema, {});
    if (const auto grammar = SaidText(fields_, "grammar")) add_grammar(fields_, "grammar", *grammar);
    if (const auto regex = SaidText(fields_, "regex")) add_regex(fields_, "regex", *regex);
    if (const auto grammar = SaidText(fields_, "ebnf")) add_grammar(fields_, "ebnf", *grammar);
    return std::move(found_);
  }

 private:
  void read_response_format() {
    const Json* format = fields_.find_object("response_format");
    if (format == nullptr || format->empty()) return;
    FieldReader inner(*format, "response_format.", error_);
    const std::string type = inner.required_text("type");
    if (!inner.ok()) return;
    if (type == "json_schema") {
      read_json_schema(inner);
    } else if (type == "json_object") {  // llama.cpp's may have a schema.
      const Json* schema = inner.find("schema");
      add_schema(inner, "schema", schema == nullptr ? Json{{"type", "object"}} : *schema, {});
    } else if (type != "text") {
      inner.fail("type",
                 fmt::format(
                     "'response_format.type' must be 'text', 'json_object' or 'json_schema', got '{}'", type),
                 "invalid_value");
    }
    inner.refuse_others();
  }

  void read_json_schema(FieldReader& format) {
    // llama.cpp's has the schema itself here.
    if (const Json* schema = format.find("schema")) return add_schema(format, "schema", *schema, {});
    const Json* described = format.find_object("json_schema");
    if (described == nullptr) {
      return format.fail("json_schema", "'response_format.json_schema' is missing: expected an object",
                         "missing_parameter");
    }
    FieldReader inner(*described, "response_format.json_schema.", error_);
    inner.text("name");
    inner.text("description");
    inner.boolean("strict");  // Schemas are always enforced.
    const Json* schema = inner.find("schema");
    if (schema == nullptr) {
      inner.fail("schema", "'response_format.json_schema.schema' is missing: expected a JSON schema",
                 "missing_parameter");
    } else {
      add_schema(inner, "schema", *schema, {});
    }
    inner.refuse_others();
  }

  void read_vllm() {
    JsonSpaces spaces;
    spaces.whitespace = fields_.text("guided_whitespace_pattern").value_or("");
    fields_.text("guided_decoding_backend");  // There is one.
    if (const Json* schema = Said(fields_, "guided_json"))
      add_schema(fields_, "guided_json", *schema, spaces);
    if (const auto regex = SaidText(fields_, "guided_regex")) add_regex(fields_, "guided_regex", *regex);
    if (const Json* choices = Said(fields_, "guided_choice")) add_choice(fields_, "guided_choice", *choices);
    if (const auto grammar = SaidText(fields_, "guided_grammar"))
      add_grammar(fields_, "guided_grammar", *grammar);
  }

  void read_structured_outputs() {
    const Json* outputs = fields_.find_object("structured_outputs");
    if (outputs == nullptr) return;
    FieldReader inner(*outputs, "structured_outputs.", error_);
    JsonSpaces spaces;
    spaces.whitespace = inner.text("whitespace_pattern").value_or("");
    spaces.none = inner.boolean("disable_any_whitespace").value_or(false);
    for (const char* of_backends : {"disable_fallback", "disable_additional_properties"}) {
      inner.only(of_backends, {false});
    }
    if (const Json* schema = Said(inner, "json")) add_schema(inner, "json", *schema, spaces);
    if (inner.boolean("json_object").value_or(false)) {
      add_schema(inner, "json_object", Json{{"type", "object"}}, spaces);
    }
    if (const auto regex = SaidText(inner, "regex")) add_regex(inner, "regex", *regex);
    if (const Json* choices = Said(inner, "choice")) add_choice(inner, "choice", *choices);
    if (const auto grammar = SaidText(inner, "grammar")) add_grammar(inner, "grammar", *grammar);
    inner.refuse_others();
  }

  /// A schema may come as an object, as true or false, or as the JSON text of one.
  void add_schema(FieldReader& fields, const char* name, const Json& value, const JsonSpaces& spaces) {
    if (value.is_object() || value.is_boolean()) {
      return add(fields, name, GrammarKind::kJsonSchema, SchemaText(value, spaces));
    }
    if (!value.is_string()) return fields.fail_type(name, "a JSON schema", value);
    const ApiResult<Json> parsed = ParseJson(value.get<std::string>());
    if (!parsed.has_value() || !(parsed->is_object() || parsed->is_boolean())) {
      return fields.fail(name,
                         fmt::format("'{}' must be a JSON schema, or the text of one", fields.path_of(name)),
                         "invalid_value");
    }
    add(fields, name, GrammarKind::kJsonSchema, SchemaText(*parsed, spaces));
  }

  void add_regex(FieldReader& fields, const char* name, const std::string& regex) {
    add(fields, name, GrammarKind::kRegex, regex);
  }

  void add_choice(FieldReader& fields, const char* name, const Json& choices) {
    if (!choices.is_array()) return fields.fail_type(name, "an array of strings", choices);
    if (choices.size() > kChoicesMax) {
      return fields.fail(name,
                         fmt::format("'{}' may have up to {} texts, got {}", fields.path_of(name),
                                     kChoicesMax, choices.size()),
                         "invalid_value");
    }
    std::vector<std::string> texts;
    for (const Json& choice : choices) {
      if (!choice.is_string()) return fields.fail_type(name, "an array of strings", choices);
      texts.push_back(choice.get<std::string>());
    }
    add(fields, name, GrammarKind::kRegex, ChoiceRegex(texts));
  }

  void add_grammar(FieldReader& fields, const char* name, const std::string& grammar) {
    if (!IsGbnf(grammar)) return add(fields, name, GrammarKind::kLark, grammar);
    const absl::StatusOr<std::string> lark = LarkFromGbnf(grammar);
    if (!lark.ok()) {
      return fields.fail(name, fmt::format("'{}': {}", fields.path_of(name), Message(lark.status())),
                         "invalid_value");
    }
    add(fields, name, GrammarKind::kLark, *lark);
  }

  void add(FieldReader& fields, const char* name, GrammarKind kind, std::string text) {
    std::string path = fields.path_of(name);
    if (found_.has_value()) {
      return fields.fail(
          name, fmt::format("'{}' and '{}' both say what the text must be; send one", found_->field, path),
          "invalid_value");
    }
    found_ = Structure{std::move(path), kind, std::move(text)};
  }

  FieldReader& fields_;
  std::optional<ApiError>& error_;
  std::optional<Structure> found_;
};

/// The names in "Unimplemented keys: ["not", "if"]".
std::vector<std::string> UnimplementedKeys(const std::string& message) {
  constexpr std::string_view kBegin = "Unimplemented keys: ";
  const size_t at = message.find(kBegin);
  if (at == std::string::npos) return {};
  const size_t begin = at + kBegin.size();
  const size_t end = message.find(']', begin);
  if (end == std::string::npos) return {};
  const Json keys = Json::parse(message.substr(begin, end + 1 - begin), nullptr, false);
  std::vector<std::string> names;
  if (!keys.is_array()) return names;
  for (const Json& key : keys) {
    if (key.is_string()) names.push_back(key.get<std::string>());
  }
  return names;
}

/// The word behind `begin` in `message`; "": it is not there.
std::string Behind(const std::string& message, std::string_view begin) {
  const size_t at = message.find(begin);
  if (at == std::string::npos) return "";
  const std::string rest = message.substr(at + begin.size());
  return rest.substr(0, rest.find_first_of("' \n"));
}

}  // namespace

std::optional<Structure> ReadStructure(FieldReader& fields, std::optional<ApiError>& error) {
  return StructureReader(fields, error).read();
}

std::string SchemaText(const Json& schema, const JsonSpaces& spaces) {
  Json out = schema;
  if (schema.is_boolean()) {  // Options need an object.
    out = schema.get<bool>() ? Json::object() : Json{{"not", Json::object()}};
  }
  if (out.contains("x-guidance")) return DumpJson(out);
  out["x-guidance"] = GuidanceOptions(spaces);
  return DumpJson(out);
}

Json GuidanceOptions(const JsonSpaces& spaces) {
  if (spaces.none) return {{"whitespace_flexible", false}};
  return {{"whitespace_pattern", spaces.whitespace.empty() ? kWhitespace : spaces.whitespace}};
}

std::string ChoiceRegex(const std::vector<std::string>& choices) {
  std::string regex = "(?:";
  for (const std::string& choice : choices) {
    if (&choice != &choices.front()) regex += '|';
    for (const char c : choice) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         (static_cast<unsigned char>(c) >= 0x80) || c == ' ';
      if (plain) {
        regex += c;
      } else {
        regex += fmt::format("\\x{{{:x}}}", static_cast<unsigned>(c));
      }
    }
  }
  return regex + ")";
}

ApiError StructureError(const Structure& structure, const std::string& message) {
  ApiError error{.param = structure.field, .code = "invalid_value"};
  const std::vector<std::string> keys = UnimplementedKeys(message);
  if (!keys.empty()) {
    std::string names;
    for (const std::string& key : keys) names += fmt::format("{}'{}'", names.empty() ? "" : ", ", key);
    error.message = fmt::format("'{}': the keyword {} of JSON schema can't be enforced; leave it out",
                                structure.field, names);
    error.code = "unsupported_schema";
  } else if (message.find("oneOf constraints are not supported") != std::string::npos) {
    error.message = fmt::format(
        "'{}': the keyword 'oneOf' can't be enforced where one value may fit several of its schemas; use "
        "'anyOf', or "
        "give each schema a property with a 'const' of its own",
        structure.field);
    error.code = "unsupported_schema";
  } else if (const std::string format = Behind(message, "Unknown format: "); !format.empty()) {
    error.message =
        fmt::format("'{}': the keyword 'format' of JSON schema can't be enforced for '{}'; leave it out",
                    structure.field, format);
    error.code = "unsupported_schema";
  } else if (const std::string place = Behind(message, "Resource '"); !place.empty()) {
    error.message = fmt::format(
        "'{}': the keyword '$ref' of JSON schema can't be followed out of the schema, to '{}'; put "
        "what it names under '$defs'",
        structure.field, place);
    error.code = "unsupported_schema";
  } else {
    error.message = fmt::format("'{}': {}", structure.field, message);
  }
  return error;
}

}  // namespace shoal
