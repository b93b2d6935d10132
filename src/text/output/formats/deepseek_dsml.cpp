// DeepSeek V3.2 and V4:
//   <｜DSML｜function_calls>
//   <｜DSML｜invoke name="get_weather">
//   <｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
//   </｜DSML｜invoke>
//   </｜DSML｜function_calls>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat DeepSeekDsmlFormat() {
  const XmlCallsSyntax syntax = {.call_open = "<｜DSML｜invoke name=\"",
                                 .name_close = "\"",
                                 .tag_close = ">",
                                 .key_open = "<｜DSML｜parameter name=\"",
                                 .key_close = "\"",
                                 .value_open = ">",
                                 .value_close = "</｜DSML｜parameter>",
                                 .call_close = "</｜DSML｜invoke>",
                                 .close = {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"},
                                 .text_attribute = "string=\"true\"",
                                 .json_attribute = "string=\"false\""};
  CallWriting v32 = {.opener = "<｜DSML｜function_calls>",
                     .begin = {"\n"},
                     .before_name = {syntax.call_open},
                     .after_name = {syntax.name_close + syntax.tag_close + "\n"},
                     .after_arguments = {syntax.call_close},
                     .separator = {"\n"},
                     .end = {"\n"},
                     .closer = syntax.close[0],
                     .style = ArgumentStyle::kElements,
                     .text_attribute = {" " + syntax.text_attribute},
                     .json_attribute = {" " + syntax.json_attribute},
                     .after_value = {"\n"}};
  CallWriting v4 = v32;
  v4.for_templates = {"tool_calls>"};
  v4.opener = "<｜DSML｜tool_calls>";
  v4.closer = syntax.close[1];
  return {.name = "deepseek-v3.2",
          .recognized_by = {{"｜DSML｜"}},
          .openers = {v32.opener, v4.opener},
          .calls = {syntax},
          .writings = {v4, v32},
          .inner_marks = {"<｜DSML｜invoke"}};
}

}  // namespace shoal
