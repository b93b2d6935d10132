#include "text/output/tool_format.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/output/choice_grammar.h"

namespace shoal {
namespace {

/// The end of a block of code may stand in an answer's text, too.
constexpr std::string_view kFence = "```";

std::vector<std::string> ClosersOf(const OneCallsSyntax& syntax) {
  struct Closers {
    std::vector<std::string> operator()(const JsonCallsSyntax& json) const { return json.closers; }
    std::vector<std::string> operator()(const PythonCallsSyntax& python) const { return python.closers; }
    std::vector<std::string> operator()(const NamedCallsSyntax& named) const {
      return {named.call_close, named.close};
    }
    std::vector<std::string> operator()(const XmlCallsSyntax& xml) const {
      return xml.close.empty() ? std::vector<std::string>{xml.call_close} : xml.close;
    }
    std::vector<std::string> operator()(const NestedCallsSyntax& nested) const { return {nested.closer()}; }
    std::vector<std::string> operator()(const RecipientCallsSyntax& /*none*/) const { return {}; }
  };
  std::vector<std::string> closers = std::visit(Closers(), syntax);
  std::erase_if(closers, [](const std::string& mark) { return mark.empty() || mark == kFence; });
  return closers;
}

std::unique_ptr<CallGrammar> GrammarOf(const OneCallsSyntax& syntax, const ToolSchemas& schemas) {
  struct Make {
    const ToolSchemas& schemas;
    std::unique_ptr<CallGrammar> operator()(const JsonCallsSyntax& json) const {
      return MakeJsonCalls(json, schemas);
    }
    std::unique_ptr<CallGrammar> operator()(const PythonCallsSyntax& python) const {
      return MakePythonCalls(python, schemas);
    }
    std::unique_ptr<CallGrammar> operator()(const NamedCallsSyntax& named) const {
      return MakeNamedCalls(named);
    }
    std::unique_ptr<CallGrammar> operator()(const XmlCallsSyntax& xml) const {
      return MakeXmlCalls(xml, schemas);
    }
    std::unique_ptr<CallGrammar> operator()(const NestedCallsSyntax& nested) const {
      return MakeNestedCalls(nested, schemas);
    }
    std::unique_ptr<CallGrammar> operator()(const RecipientCallsSyntax& recipient) const {
      return MakeRecipientCalls(recipient, schemas);
    }
  };
  return std::visit(Make{schemas}, syntax);
}

}  // namespace

XmlCallsSyntax InvokeTags(const std::string& prefix, std::vector<std::string> close) {
  return {.call_open = "<" + prefix + "invoke name=\"",
          .name_close = "\"",
          .tag_close = ">",
          .key_open = "<" + prefix + "parameter name=\"",
          .key_close = "\"",
          .value_open = ">",
          .value_close = "</" + prefix + "parameter>",
          .call_close = "</" + prefix + "invoke>",
          .close = std::move(close)};
}

CallWriting InvokeWriting(const XmlCallsSyntax& syntax, std::string opener, std::string closer) {
  return {.opener = std::move(opener),
          .begin = {"\n"},
          .before_name = {syntax.call_open},
          .after_name = {syntax.name_close + syntax.tag_close + "\n"},
          .after_arguments = {syntax.call_close},
          .separator = {"\n"},
          .end = {"\n"},
          .closer = std::move(closer),
          .style = ArgumentStyle::kElements,
          .after_value = {"\n"}};
}

ToolSyntax ToolFormat::syntax() const {
  return {.openers = openers,
          .closers = ClosersOf(calls.main),
          .first = first,
          .dropped = dropped,
          .opened = opened_by_prompt};
}

std::unique_ptr<CallGrammar> ToolFormat::grammar(const ToolSchemas& schemas) const {
  auto main = GrammarOf(calls.main, schemas);
  return calls.others.empty() ? std::move(main)
                              : MakeChoice(std::move(main), GrammarOf(calls.others.front(), schemas));
}

const CallWriting& ToolFormat::writing(std::string_view chat_template) const {
  const auto found = std::ranges::find_if(writings, [&](const CallWriting& writing) {
    return std::ranges::all_of(writing.for_templates,
                               [&](std::string_view text) { return chat_template.contains(text); });
  });
  SHOAL_CHECK(found != writings.end());  // The last of a list is of any model.
  return *found;
}

}  // namespace shoal
