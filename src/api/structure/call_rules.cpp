#include "api/structure/call_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <variant>

#include "api/structure/argument_rules.h"
#include "api/structure/structure.h"
#include "text/output/json_text.h"

namespace shoal {
namespace {

bool IsPythonName(std::string_view name) {
  return std::ranges::all_of(name, [](char c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return letter || std::string_view("_.-/").contains(c);
  });
}

/// The tool's name as the format writes it; nullopt: it can't be written.
std::optional<std::string> WrittenName(const std::string& name, const CallFormat& format) {
  const bool reads_json =
      format.syntax != nullptr && std::holds_alternative<JsonCallsSyntax>(format.syntax->main);
  if (reads_json && format.writing->style == ArgumentStyle::kJson && !format.writing->before_name.empty()) {
    const std::string quoted = JsonQuoted(name);
    return quoted.substr(1, quoted.size() - 2);
  }
  const bool python = format.writing->style == ArgumentStyle::kPython;
  if (!IsToolName(name) || (python && !IsPythonName(name))) return std::nullopt;
  return name;
}

ApiError Unwritable(const std::string& name, const CallFormat& format) {
  return {.message = fmt::format(
              "'tools': the name '{}' can't be written in this model's format of calls, '{}'; name the "
              "tool with letters, digits, '_' and '-'",
              name, format.name),
          .param = "tools",
          .code = "invalid_value"};
}

ApiError Unenforced(const std::string& keyword, const std::string& name, const CallFormat& format) {
  return {.message = fmt::format(
              "'tools': the keyword '{}' in the parameters of '{}' can't be enforced in this model's "
              "format of calls, '{}'; leave it out, or 'strict'",
              keyword, name, format.name),
          .param = "tools",
          .code = "unsupported_schema"};
}

/// A JSON object of the schema: the compiler itself knows these.
ArgumentRules AddJson(const CallableTool& tool, const Json& schema, LarkText& lark) {
  Json options = schema;
  if (!tool.strict && options.is_object() && !options.contains("x-guidance")) {
    Json lenient = GuidanceOptions();
    lenient["lenient"] = true;
    options["x-guidance"] = std::move(lenient);
  }
  const std::string name = lark.fresh("parameters");
  lark.add(fmt::format("{}: %json {}", name, SchemaText(options)));
  return {name, ""};
}

ArgumentRules AddArguments(const CallableTool& tool, const Json& schema, const CallFormat& format,
                           LarkText& lark) {
  switch (format.writing->style) {
    case ArgumentStyle::kElements:
      return AddElements(schema, std::get<XmlCallsSyntax>(format.syntax->main), *format.writing, lark);
    case ArgumentStyle::kNested:
      return AddNested(schema, std::get<NestedCallsSyntax>(format.syntax->main), lark);
    case ArgumentStyle::kMarked:
      return AddMarked(schema, std::get<NamedCallsSyntax>(format.syntax->main).literal->quote, lark);
    case ArgumentStyle::kPython:
      return AddPython(schema, lark);
    case ArgumentStyle::kJson:
      break;
  }
  if (!format.forbidden.empty()) {
    ArgumentRules rules = AddJsonWithout(schema, format.forbidden, lark);
    // What the schema says goes first: a mark in a string is an odd text.
    if (!tool.strict || rules.refused.empty()) return rules;
  }
  return AddJson(tool, schema, lark);
}

/// The rule of a call of any of the tools, without markers around it.
ApiResult<std::string> AddAnyCall(const std::vector<CallableTool>& tools, const CallFormat& format,
                                  LarkText& lark) {
  const CallWriting& writing = *format.writing;
  std::string any;
  for (const CallableTool& tool : tools) {
    const std::optional<std::string> name = WrittenName(tool.name, format);
    if (!name.has_value()) return std::unexpected(Unwritable(tool.name, format));
    const Json schema = ArgumentsSchema(tool.parameters);
    const ArgumentRules arguments = AddArguments(tool, schema, format, lark);
    if (tool.strict && !arguments.refused.empty()) {
      return std::unexpected(Unenforced(arguments.refused, tool.name, format));
    }
    const std::string rule = lark.fresh("tool");
    lark.add(fmt::format("{}: {} {} {} {} {}", rule, lark.notation(writing.before_name), Quoted(*name),
                         lark.notation(writing.after_name), arguments.expression,
                         lark.notation(writing.after_arguments)));
    any += (any.empty() ? "" : " | ") + rule;
  }
  const std::string name = lark.fresh("call");
  lark.add(fmt::format("{}: {}", name, any));
  return name;
}

}  // namespace

Json ArgumentsSchema(const Json* parameters) {
  if (parameters == nullptr || parameters->is_null()) {
    return {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
  }
  Json schema = *parameters;
  const bool open = schema.is_object() && !schema.contains("type") && !schema.contains("$ref") &&
                    !schema.contains("anyOf") && !schema.contains("allOf") && !schema.contains("oneOf");
  if (open) schema["type"] = "object";
  return schema;
}

ApiResult<std::string> AddCalls(const std::vector<CallableTool>& tools, const CallFormat& format,
                                bool several, LarkText& lark) {
  const CallWriting& writing = *format.writing;
  const auto call = AddAnyCall(tools, format, lark);
  if (!call.has_value()) return call;
  const std::string begin = lark.notation(writing.begin);
  const std::string end = lark.notation(writing.end) + " " + lark.mark(writing.closer);
  const std::string between = lark.notation(writing.separator);
  const bool more = several && !writing.single;
  if (!writing.around_each) {
    const std::string others = more ? fmt::format("({} {})*", between, *call) : "";
    return fmt::format("{} {} {} {}", begin, *call, others, end);
  }
  const std::string one = lark.fresh("whole");
  lark.add(fmt::format("{}: {} {} {}", one, begin, *call, end));
  if (!more) return one;
  return fmt::format("{} ({} {} {})*", one, between, lark.mark(writing.opener), one);
}

}  // namespace shoal
