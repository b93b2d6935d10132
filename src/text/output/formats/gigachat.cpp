// GigaChat 3:   <|message_sep|>
//
//               function call<|role_sep|>
//               {"name": "get_weather", "arguments": {"city": "Paris"}}
// GigaChat 3.1: <|function_call|>{"name": ...}
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat GigaChatFormat() {
  const std::string sep = "<|message_sep|>";
  CallWriting marked = {.for_templates = {"<|function_call|>"},
                        .opener = "<|function_call|>",
                        .before_name = NameMember("name"),
                        .after_name = ArgumentsMember("arguments"),
                        .after_arguments = {"}"},
                        .single = true};
  CallWriting role = marked;
  role.for_templates = {};
  role.preface = {sep + "\n\n"};
  role.opener = "function call<|role_sep|>";
  role.begin = {"\n"};
  return {.name = "gigachat",
          .recognized_by = {{"<|role_sep|>"}},
          .openers = {marked.opener, role.opener},
          .dropped = {sep},
          .calls = {JsonCallsSyntax{}},
          .writings = {marked, role}};
}

}  // namespace shoal
