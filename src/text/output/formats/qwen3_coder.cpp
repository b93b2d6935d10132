// Qwen3 Coder and Qwen 3.5, Nemotron 3, Step 3.5; Seed OSS with marks of its own:
//   <tool_call>
//   <function=get_weather>
//   <parameter=city>
//   Paris
//   </parameter>
//   </function>
//   </tool_call>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

namespace {

std::unique_ptr<CallGrammar> CoderGrammar(const std::string& close, const ToolSchemas& schemas) {
  return MakeXmlCalls({.call_open = "<function=",
                       .name_close = ">",
                       .key_open = "<parameter=",
                       .key_close = ">",
                       .value_open = "",
                       .value_close = "</parameter>",
                       .call_close = "</function>",
                       .close = {close},
                       .framed = true},
                      schemas);
}

}  // namespace

// Models forget the outer mark at times.
ToolFormat Qwen3CoderFormat() {
  return {.name = "qwen3-coder",
          .recognized_by = {{"<function=", "<parameter="}},
          .syntax = {.openers = {"<tool_call>", "<function="}, .closers = {"</tool_call>"}},
          .grammar = [](const ToolSchemas& schemas) { return CoderGrammar("</tool_call>", schemas); }};
}

ToolFormat SeedOssFormat() {
  return {.name = "seed-oss",
          .recognized_by = {{"<seed:tool_call>"}},
          .syntax = {.openers = {"<seed:tool_call>", "<function="}, .closers = {"</seed:tool_call>"}},
          .grammar = [](const ToolSchemas& schemas) { return CoderGrammar("</seed:tool_call>", schemas); }};
}

}  // namespace shoal
