// Llama 3.1 and later: an object alone, or after a mark; its own tools are called as Python does:
//   {"name": "get_weather", "parameters": {"city": "Paris"}}
//   <|python_tag|>{"name": ...}; {"name": ...}
//   <|python_tag|>brave_search.call(query="weather in Paris")
// Llama 4, and 3.2 where it is asked to: [get_weather(city="Paris")]
#include "text/output/tool_format.h"

namespace shoal {

namespace {

ToolFormat LlamaFormat(std::string_view name, std::vector<std::vector<std::string_view>> texts) {
  const std::vector<std::string> closers = {"<|python_end|>"};
  // Its templates refuse several objects in an answer.
  const CallWriting object = {.opener = "",
                              .before_name = NameMember("name"),
                              .after_name = ArgumentsMember("parameters"),
                              .after_arguments = {"}"},
                              .single = true};
  const CallWriting list = {.for_templates = {"func_name1(params_name1="},
                            .opener = "",
                            .begin = {"["},
                            .before_name = {},
                            .after_name = {"("},
                            .after_arguments = {")"},
                            .separator = {", "},
                            .end = {"]"},
                            .style = ArgumentStyle::kPython};
  return {.name = name,
          .recognized_by = std::move(texts),
          .openers = {"<|python_tag|>", "<|python_start|>"},
          .first = "{[",
          .calls = {JsonCallsSyntax{.closers = closers, .known_tools_only = true},
                    {PythonCallsSyntax{.closers = closers, .known_tools_only = true, .suffix = ".call"}}},
          .writings = {list, object}};
}

}  // namespace

ToolFormat Llama3Format() {
  return LlamaFormat("llama3", {{"<|python_tag|>"}, {"<|start_header_id|>", "\"parameters\": dictionary"}});
}

ToolFormat Llama4Format() {
  return LlamaFormat("llama4", {{"<|header_start|>"}, {"func_name1(params_name1="}});
}

}  // namespace shoal
