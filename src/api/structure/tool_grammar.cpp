#include "api/structure/tool_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace shoal {
namespace {

/// A regular expression between slashes, for Lark.
std::string Slashed(std::string_view regex) {
  std::string out = "/";
  for (size_t i = 0; i < regex.size(); ++i) {
    if (regex[i] == '\\' && i + 1 < regex.size()) {
      out += regex[i++];
      out += regex[i];
    } else if (regex[i] == '/') {
      out += "\\/";
    } else if (regex[i] == '\n') {
      out += "\\n";
    } else {
      out += regex[i];
    }
  }
  return out + "/";
}

/// Puts a grammar together, whose markers may be special tokens: those are no text.
class LarkText {
 public:
  explicit LarkText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void add(std::string_view rule) { rules_ += fmt::format("{}\n", rule); }

  /// The marker itself.
  std::string mark(const std::string& text) const {
    const std::optional<int32_t> id = special(text);
    return id.has_value() ? fmt::format("<[{}]>", *id) : Quoted(text);
  }

  /// Any text up to the marker's first occurrence, and the marker.
  std::string until(const std::string& marker) {
    if (special(marker).has_value()) return "ANY? " + mark(marker);
    const std::string name = fmt::format("UNTIL{}", count_++);
    const std::string at = ChoiceRegex({marker});
    add(fmt::format("{0}: /(?s:.*){1}/ & ~/(?s:.*){1}(?s:.+)/", name, at));
    return name;
  }

  /// Any text without the marker.
  std::string without(const std::string& marker) {
    if (special(marker).has_value()) return "ANY?";
    const std::string name = fmt::format("WITHOUT{}", count_++);
    // A complement alone would take any text, and only never end.
    add(fmt::format("{}: /(?s:.*)/ & ~/(?s:.*){}(?s:.*)/", name, ChoiceRegex({marker})));
    return name;
  }

  std::string take(std::string_view start) const {
    return fmt::format("start: {}\nANY: /(?s:.+)/\n{}", start, rules_);
  }

 private:
  /// A token that stands for itself, not for the bytes of its name. llguidance takes "<tool_call>" for one whatever
  /// the tokenizer says of it.
  std::optional<int32_t> special(const std::string& text) const {
    const std::optional<int32_t> id = tokenizer_.token_id(text);
    if (!id.has_value()) return std::nullopt;
    const bool in_brackets = text.starts_with('<') && text.ends_with('>');
    return in_brackets || tokenizer_.is_special(*id) ? id : std::nullopt;
  }

  const Tokenizer& tokenizer_;
  std::string rules_;
  int count_ = 0;
};

/// Reasoning, as the beginning of a start rule; "" for a model without.
std::string ReasoningPart(const ReasoningMarks& reasoning, LarkText& lark) {
  if (reasoning.open.empty()) return "";
  const std::string until = lark.until(reasoning.close) + " SPACE?";
  lark.add("SPACE: /[ \\n]{1,4}/");
  if (reasoning.begun_in_prompt) return until + " ";
  return fmt::format("({} {})? ", lark.mark(reasoning.open), until);
}

/// How a format writes its calls.
struct CallSyntax {
  std::string_view format;
  const char* open;      ///< Marker before a call, or before all of them.
  const char* begin;     ///< Behind it.
  const char* name_key;  ///< {"name": "get_weather",
  const char* arguments_key;
  const char* end;        ///< Behind the call.
  const char* close;      ///< Marker behind it; "": none.
  const char* separator;  ///< Between two calls.
};

constexpr CallSyntax kSyntaxes[] = {
    {"hermes", "<tool_call>", "\n", "name", "arguments", "\n", "</tool_call>", "\n"},
};

const CallSyntax* FindSyntax(std::string_view format) {
  const auto found = std::ranges::find(kSyntaxes, format, &CallSyntax::format);
  return found == std::end(kSyntaxes) ? nullptr : found;
}

/// The parameters of a tool as they are compiled.
std::string ParametersText(const Json& function, bool strict) {
  const bool any = !function.contains("parameters") || function["parameters"].is_null();
  Json schema =
      any ? Json{{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}}
          : function["parameters"];
  // Arguments are an object, also where the schema does not say so.
  const bool open = schema.is_object() && !schema.contains("type") && !schema.contains("$ref") &&
                    !schema.contains("anyOf") && !schema.contains("allOf") && !schema.contains("oneOf");
  if (open) schema["type"] = "object";
  if (!strict && schema.is_object() && !schema.contains("x-guidance")) {
    Json options = GuidanceOptions();
    options["lenient"] = true;
    schema["x-guidance"] = std::move(options);
  }
  return SchemaText(schema);
}

const Json& FunctionOf(const Json& tool) { return tool.contains("function") ? tool["function"] : tool; }

std::string NameOf(const Json& tool) {
  const Json& function = FunctionOf(tool);
  return function.contains("name") && function["name"].is_string() ? function["name"].get<std::string>() : "";
}

bool IsStrict(const Json& tool, const ToolChoice& choice) {
  return std::ranges::find(choice.strict, NameOf(tool)) != choice.strict.end();
}

/// Adds the rule "call": what stands between the opening marker and the end of the call.
void AddCallRule(const Json& tools, const CallSyntax& syntax, const ToolChoice& choice, LarkText& lark) {
  std::string any_call;
  int count = 0;
  for (const Json& tool : tools) {
    const std::string head =
        fmt::format("{{\"{}\": {}, \"{}\": ", syntax.name_key, Quoted(NameOf(tool)), syntax.arguments_key);
    lark.add(fmt::format("tool{0}: {1} parameters{0} \"}}\"", count, Quoted(head)));
    lark.add(fmt::format("parameters{}: %json {}", count,
                         ParametersText(FunctionOf(tool), IsStrict(tool, choice))));
    any_call += fmt::format("{}tool{}", count == 0 ? "" : " | ", count);
    ++count;
  }
  const std::string end = *syntax.end == '\0' ? "" : Quoted(syntax.end) + " ";
  const std::string close = *syntax.close == '\0' ? "" : lark.mark(syntax.close);
  lark.add(fmt::format("call: {} ({}) {}{}", Quoted(syntax.begin), any_call, end, close));
}

/// The rules of calls; what follows the first opening marker.
std::string AddCalls(const Json& tools, const CallSyntax& syntax, const ToolChoice& choice, LarkText& lark) {
  AddCallRule(tools, syntax, choice, lark);
  if (!choice.parallel || choice.kind == ToolChoice::Kind::kNamed) return "call";
  return fmt::format("call ({} {} call)*", Quoted(syntax.separator), lark.mark(syntax.open));
}

/// The rule "answer" of a structure that is no grammar of its own.
void AddAnswer(const Structure& structure, LarkText& lark) {
  lark.add(structure.kind == GrammarKind::kJsonSchema ? "answer: %json " + structure.text
                                                      : "answer: " + Slashed(structure.text));
}

}  // namespace

std::vector<std::string> StrictTools(const Json& tools) {
  std::vector<std::string> names;
  for (const Json& tool : tools) {
    if (!tool.is_object()) continue;
    const Json& function = FunctionOf(tool);
    if (!function.is_object()) continue;
    const bool strict = (function.contains("strict") && function["strict"] == true) ||
                        (tool.contains("strict") && tool["strict"] == true);
    if (strict) names.push_back(NameOf(tool));
  }
  return names;
}

ToolChoice ReadToolChoice(FieldReader& fields, std::optional<ApiError>& error) {
  ToolChoice out;
  out.parallel = fields.boolean("parallel_tool_calls").value_or(true);
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr || *choice == "auto" || *choice == "" || *choice == Json::object()) return out;
  if (*choice == "none") {
    out.kind = ToolChoice::Kind::kNone;
  } else if (*choice == "required" || *choice == "any") {
    out.kind = ToolChoice::Kind::kRequired;
  } else if (choice->is_object()) {
    FieldReader inner(*choice, "tool_choice.", error);
    inner.only("type", {"function"});
    // The name stands in "function", and in the responses API beside it.
    if (const Json* function = inner.find_object("function")) {
      FieldReader named(*function, "tool_choice.function.", error);
      out.name = named.required_text("name");
      named.refuse_others();
    } else {
      out.name = inner.required_text("name");
    }
    inner.refuse_others();
    out.kind = ToolChoice::Kind::kNamed;
  } else {
    fields.fail(
        "tool_choice",
        fmt::format("'tool_choice' must be 'auto', 'none', 'required' or the name of a function, got {}",
                    JsonExcerpt(*choice)),
        "invalid_value");
  }
  return out;
}

AnswerFormat AnswerFormatOf(const Dialect& dialect, std::string_view chat_template, std::string_view prompt) {
  AnswerFormat format{.tools = dialect.tools, .reasoning = {}};
  const ReasoningFormat* reasoning = FindReasoningFormat(dialect.reasoning);
  if (reasoning == nullptr) return format;
  const ReasoningSyntax& marks = reasoning->syntax;
  const bool begun = EndsWithinReasoning(dialect, prompt);
  if (begun || chat_template.contains(marks.open) || chat_template.contains(marks.close)) {
    format.reasoning = {.open = marks.open, .close = marks.close, .begun_in_prompt = begun};
  }
  return format;
}

ApiResult<std::optional<Structure>> ToolStructure(const Json& tools, const ToolChoice& choice,
                                                  const AnswerFormat& format, const Tokenizer& tokenizer) {
  using Kind = ToolChoice::Kind;
  if (choice.kind == Kind::kNone ||
      (choice.kind == Kind::kAuto && (tools.empty() || choice.strict.empty()))) {
    return std::nullopt;
  }
  const auto wrong = [](std::string message) {
    return std::unexpected(
        ApiError{.message = std::move(message), .param = "tool_choice", .code = "invalid_value"});
  };
  if (tools.empty()) return wrong("'tool_choice' wants a call, but there are no 'tools'");
  const CallSyntax* syntax = FindSyntax(format.tools);
  if (syntax == nullptr) {
    if (choice.kind == Kind::kAuto) return std::nullopt;  // As far as it can be enforced.
    return wrong(fmt::format(
        "'tool_choice' can't be enforced for this model, whose format of calls is '{}'; use 'auto'",
        format.tools));
  }
  Json callable = Json::array();
  for (const Json& tool : tools) {
    if (choice.kind != Kind::kNamed || NameOf(tool) == choice.name) callable.push_back(tool);
  }
  if (callable.empty())
    return wrong(fmt::format("'tool_choice' names the function '{}', which 'tools' has not", choice.name));

  LarkText lark(tokenizer);
  const std::string calls = AddCalls(callable, *syntax, choice, lark);
  std::string start;
  if (choice.kind == Kind::kAuto) {
    start = fmt::format("{} | {} {}", lark.without(syntax->open), lark.until(syntax->open), calls);
  } else {
    start = fmt::format("{}{} {}", ReasoningPart(format.reasoning, lark), lark.mark(syntax->open), calls);
  }
  return Structure{choice.kind == Kind::kAuto ? "tools" : "tool_choice", GrammarKind::kLark,
                   lark.take(start)};
}

ApiResult<Structure> BehindReasoning(Structure structure, const ReasoningMarks& reasoning,
                                     const Tokenizer& tokenizer) {
  if (reasoning.open.empty()) return structure;
  if (structure.kind == GrammarKind::kLark) {
    if (!reasoning.begun_in_prompt) return structure;  // The answer begins at once.
    return std::unexpected(ApiError{
        .message = fmt::format("'{}': a grammar can't follow the reasoning that the prompt begins; turn the "
                               "model's thinking off, or use a schema or a regular expression",
                               structure.field),
        .param = structure.field,
        .code = "invalid_value"});
  }
  LarkText lark(tokenizer);
  const std::string before = ReasoningPart(reasoning, lark);
  AddAnswer(structure, lark);
  structure.kind = GrammarKind::kLark;
  structure.text = lark.take(before + "answer");
  return structure;
}

ApiResult<std::optional<Structure>> ChatStructure(const std::optional<Structure>& structure,
                                                  std::string_view tools, const ToolChoice& choice,
                                                  const AnswerFormat& format, const Tokenizer& tokenizer) {
  using Kind = ToolChoice::Kind;
  const bool free = choice.kind == Kind::kNone || (choice.kind == Kind::kAuto && choice.strict.empty());
  if (free && !structure.has_value()) return std::nullopt;  // Most chats: their tools need not be read here.
  Json list = Json::array();
  if (!tools.empty()) {
    auto parsed = ParseJson(tools);
    if (!parsed.has_value()) return std::unexpected(parsed.error());
    list = *std::move(parsed);
  }
  if (!structure.has_value() || choice.kind == Kind::kRequired || choice.kind == Kind::kNamed) {
    return ToolStructure(list, choice, format, tokenizer);
  }
  const CallSyntax* syntax = choice.kind == Kind::kAuto && !list.empty() ? FindSyntax(format.tools) : nullptr;
  if (syntax == nullptr || structure->kind == GrammarKind::kLark) {
    return BehindReasoning(*structure, format.reasoning, tokenizer);
  }
  LarkText lark(tokenizer);
  const std::string before = ReasoningPart(format.reasoning, lark);
  AddAnswer(*structure, lark);
  const std::string calls = AddCalls(list, *syntax, choice, lark);
  return Structure{structure->field, GrammarKind::kLark,
                   lark.take(fmt::format("{}(answer | {} {})", before, lark.mark(syntax->open), calls))};
}

}  // namespace shoal
