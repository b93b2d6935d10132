#include "api/structure/tool_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <variant>

#include "api/structure/call_rules.h"
#include "api/structure/lark_text.h"
#include "text/output/harmony.h"
#include "text/output/json_text.h"

namespace shoal {
namespace {

constexpr const char* kSpaces = "/[ \\n]{1,4}/";

/// Reasoning, as the beginning of a start rule; "" for a model without.
std::string ReasoningPart(const ReasoningMarks& reasoning, LarkText& lark) {
  if (reasoning.open.empty()) return "";
  std::string until = lark.until(reasoning.close);
  until += reasoning.after.empty() ? fmt::format(" ({})?", kSpaces) : " " + lark.mark(reasoning.after);
  if (reasoning.begun_in_prompt) return until + " ";
  return fmt::format("({} {})? ", lark.mark(reasoning.open), until);
}

/// The format of calls of an answer; nothing where the model has none.
std::optional<CallFormat> CallFormatOf(const AnswerFormat& format) {
  if (format.tools == kHarmony)
    return CallFormat{.name = kHarmony, .writing = &HarmonyWriting(), .forbidden = HarmonyMarks()};
  const ToolFormat* const found = FindToolFormat(format.tools);
  if (found == nullptr) return std::nullopt;
  return CallFormat{.name = found->name,
                    .writing = format.writing == nullptr ? &found->writings.back() : format.writing,
                    .syntax = &found->calls};
}

const Json& FunctionOf(const Json& tool) { return tool.contains("function") ? tool["function"] : tool; }

std::string NameOf(const Json& tool) {
  const Json& function = FunctionOf(tool);
  return function.contains("name") && function["name"].is_string() ? function["name"].get<std::string>() : "";
}

bool IsStrict(const Json& tool, const ToolChoice& choice) {
  return std::ranges::find(choice.strict, NameOf(tool)) != choice.strict.end();
}

ApiResult<std::string> CallsOf(const Json& tools, const CallFormat& format, const ToolChoice& choice,
                               LarkText& lark) {
  std::vector<CallableTool> callable;
  for (const Json& tool : tools) {
    const Json& function = FunctionOf(tool);
    callable.push_back({.name = NameOf(tool),
                        .parameters = function.contains("parameters") ? &function["parameters"] : nullptr,
                        .strict = IsStrict(tool, choice)});
  }
  return AddCalls(callable, format, choice.parallel && choice.kind != ToolChoice::Kind::kNamed, lark);
}

/// What stands in front of calls, but for reasoning.
std::string Opening(const CallFormat& format, const AnswerFormat& answer, LarkText& lark) {
  const CallWriting& writing = *format.writing;
  return lark.notation(writing.preface) + " " +
         (answer.call_begun_in_prompt ? "" : lark.mark(writing.opener)) + " ";
}

/// Any text, or text and calls behind it.
std::string TextOrCalls(const CallFormat& format, const AnswerFormat& answer, const std::string& calls,
                        LarkText& lark) {
  const std::string& opener = format.writing->opener;
  std::vector<std::string> openers = {opener};
  std::vector<std::string> shown = answer.shown;
  if (const ToolFormat* const found = FindToolFormat(format.name)) openers = found->openers;
  if (format.name == kHarmony) openers = HarmonyMarks();
  for (const NotationPiece& piece : format.writing->preface) shown.push_back(piece.text);
  const std::string before = answer.reasoning.text.empty() ? "" : lark.mark(answer.reasoning.text) + " ";
  if (opener.empty()) {  // What begins a call is told from text by its first byte.
    const std::string text = lark.fresh("TEXT");
    lark.add(fmt::format("{}: /(?s:.+)/ & ~/\\s*[{{\\[](?s:.*)/ & ~/(?s:.*){}(?s:.*)/", text,
                         ChoiceRegex(openers)));
    return fmt::format("({}? | {})", text, calls);
  }
  if (!answer.reasoning.text.empty()) {
    const std::string direct = Opening(format, answer, lark) + calls;
    // Harmony ends an answer with its text.
    const bool goes_on = format.name != kHarmony;
    const std::string behind =
        goes_on ? fmt::format(" | {}{} {}", before, lark.without_until(openers, shown, opener), calls) : "";
    return fmt::format("({}{}{} | {})", before, lark.without(openers, shown), behind, direct);
  }
  return fmt::format("({} | {} {})", lark.without(openers, shown), lark.without_until(openers, shown, opener),
                     calls);
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
  if (dialect.reasoning == kHarmony) {
    format.reasoning = {.open = std::string(kHarmonyReasoning),
                        .close = "<|end|>",
                        .after = "<|start|>assistant",
                        .text = std::string(kHarmonyAnswer)};
    return format;
  }
  if (const ToolFormat* const calls = FindToolFormat(dialect.tools)) {
    format.writing = &calls->writing(chat_template);
    format.shown = calls->dropped;
    if (calls->opened_by_prompt) {
      format.call_begun_in_prompt = Trimmed(prompt).ends_with(format.writing->opener);
      const std::string& user = std::get<RecipientCallsSyntax>(calls->calls.main).user;
      if (format.call_begun_in_prompt) format.reasoning.text = user + "\n";
    }
  }
  const ReasoningFormat* reasoning = FindReasoningFormat(dialect.reasoning);
  if (reasoning == nullptr) return format;
  const ReasoningSyntax& marks = reasoning->syntax;
  format.shown.insert(format.shown.end(), marks.dropped.begin(), marks.dropped.end());
  const bool begun = EndsWithinReasoning(dialect, prompt);
  if (begun || chat_template.contains(marks.open) || chat_template.contains(marks.close)) {
    format.reasoning.open = marks.open;
    format.reasoning.close = marks.close;
    format.reasoning.begun_in_prompt = begun;
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
  const std::optional<CallFormat> calls_format = CallFormatOf(format);
  if (!calls_format.has_value()) {
    if (choice.kind == Kind::kAuto) return std::nullopt;  // As far as it can be enforced.
    return wrong(
        "'tool_choice' can't be enforced for this model: its format of calls is not known ('none'); use "
        "'auto'");
  }
  Json callable = Json::array();
  for (const Json& tool : tools) {
    if (choice.kind != Kind::kNamed || NameOf(tool) == choice.name) callable.push_back(tool);
  }
  if (callable.empty())
    return wrong(fmt::format("'tool_choice' names the function '{}', which 'tools' has not", choice.name));

  LarkText lark(tokenizer);
  const ApiResult<std::string> calls = CallsOf(callable, *calls_format, choice, lark);
  if (!calls.has_value()) return std::unexpected(calls.error());
  std::string start = ReasoningPart(format.reasoning, lark);
  start += choice.kind == Kind::kAuto ? TextOrCalls(*calls_format, format, *calls, lark)
                                      : Opening(*calls_format, format, lark) + *calls;
  return Structure{choice.kind == Kind::kAuto ? "tools" : "tool_choice", GrammarKind::kLark,
                   lark.take(start)};
}

ApiResult<Structure> BehindReasoning(Structure structure, const ReasoningMarks& reasoning,
                                     const Tokenizer& tokenizer) {
  if (reasoning.open.empty() && reasoning.text.empty()) return structure;
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
  const std::string before = ReasoningPart(reasoning, lark) + lark.mark(reasoning.text) + " ";
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
  const bool may_call = choice.kind == Kind::kAuto && !list.empty();
  const std::optional<CallFormat> calls_format = may_call ? CallFormatOf(format) : std::nullopt;
  if (!calls_format.has_value() || structure->kind == GrammarKind::kLark) {
    return BehindReasoning(*structure, format.reasoning, tokenizer);
  }
  LarkText lark(tokenizer);
  std::string start = ReasoningPart(format.reasoning, lark);
  AddAnswer(*structure, lark);
  const ApiResult<std::string> calls = CallsOf(list, *calls_format, choice, lark);
  if (!calls.has_value()) return std::unexpected(calls.error());
  start += fmt::format("({} answer | {}{})", lark.mark(format.reasoning.text),
                       Opening(*calls_format, format, lark), *calls);
  return Structure{structure->field, GrammarKind::kLark, lark.take(start)};
}

}  // namespace shoal
