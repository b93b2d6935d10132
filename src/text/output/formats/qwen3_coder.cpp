// Qwen3 Coder and Qwen 3.5, Nemotron 3, Step 3.5; Seed OSS with marks of its own:
//   <tool_call>
//   <function=get_weather>
//   <parameter=city>
//   Paris
//   </parameter>
//   </function>
//   </tool_call>
#include "text/output/tool_format.h"

namespace shoal {

namespace {

ToolFormat CoderFormat(std::string_view name, std::vector<std::string_view> texts, const std::string& open,
                       const std::string& close, const std::string& frame) {
  const XmlCallsSyntax syntax = {.call_open = "<function=",
                                 .name_close = ">",
                                 .key_open = "<parameter=",
                                 .key_close = ">",
                                 .value_open = "",
                                 .value_close = "</parameter>",
                                 .call_close = "</function>",
                                 .close = {close},
                                 .framed = true};
  return {.name = name,
          .recognized_by = {std::move(texts)},
          .openers = {open, syntax.call_open},  // Models forget the outer mark at times.
          .calls = {syntax},
          .writings = {{.opener = open,
                        .begin = {"\n"},
                        .before_name = {syntax.call_open},
                        .after_name = {syntax.name_close + "\n"},
                        .after_arguments = {syntax.call_close},
                        .separator = {Maybe("\n")},
                        .end = {"\n"},
                        .closer = close,
                        .around_each = true,
                        .style = ArgumentStyle::kElements,
                        .python_words = true,
                        .frame = frame,
                        .after_value = {"\n"}}}};
}

}  // namespace

ToolFormat Qwen3CoderFormat() {
  return CoderFormat("qwen3-coder", {"<function=", "<parameter="}, "<tool_call>", "</tool_call>", "\n");
}

ToolFormat SeedOssFormat() {
  return CoderFormat("seed-oss", {"<seed:tool_call>"}, "<seed:tool_call>", "</seed:tool_call>", "");
}

}  // namespace shoal
