// Llama 3.1 and later: an object alone, or after a mark; its own tools are called as Python does:
//   {"name": "get_weather", "parameters": {"city": "Paris"}}
//   <|python_tag|>{"name": ...}; {"name": ...}
//   <|python_tag|>brave_search.call(query="weather in Paris")
// Llama 4, and 3.2 where it is asked to: [get_weather(city="Paris")]
#include "text/output/choice_grammar.h"
#include "text/output/json_calls.h"
#include "text/output/python_calls.h"
#include "text/output/tool_format.h"

namespace shoal {

namespace {

std::unique_ptr<CallGrammar> LlamaGrammar(const ToolSchemas& schemas) {
  return MakeChoice(
      MakeJsonCalls({.closers = {"<|python_end|>"}, .known_tools_only = true}, schemas),
      MakePythonCalls({.closers = {"<|python_end|>"}, .known_tools_only = true, .suffix = ".call"}, schemas));
}

ToolSyntax LlamaSyntax() {
  return {.openers = {"<|python_tag|>", "<|python_start|>"}, .closers = {"<|python_end|>"}, .first = "{["};
}

}  // namespace

ToolFormat Llama3Format() {
  return {.name = "llama3",
          .recognized_by = {{"<|python_tag|>"}, {"<|start_header_id|>", "\"parameters\": dictionary"}},
          .syntax = LlamaSyntax(),
          .grammar = LlamaGrammar};
}

ToolFormat Llama4Format() {
  return {.name = "llama4",
          .recognized_by = {{"<|header_start|>"}, {"func_name1(params_name1="}},
          .syntax = LlamaSyntax(),
          .grammar = LlamaGrammar};
}

}  // namespace shoal
