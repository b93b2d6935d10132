// DeepSeek V3.2 and V4:
//   <｜DSML｜function_calls>
//   <｜DSML｜invoke name="get_weather">
//   <｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
//   </｜DSML｜invoke>
//   </｜DSML｜function_calls>
#include "text/output/tool_format.h"
#include "text/output/xml_calls.h"

namespace shoal {

ToolFormat DeepSeekDsmlFormat() {
  return {.name = "deepseek-v3.2",
          .recognized_by = {{"｜DSML｜"}},
          .syntax = {.openers = {"<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"},
                     .closers = {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"}},
          .grammar =
              [](const ToolSchemas& schemas) {
                return MakeXmlCalls({.call_open = "<｜DSML｜invoke name=\"",
                                     .name_close = "\"",
                                     .tag_close = ">",
                                     .key_open = "<｜DSML｜parameter name=\"",
                                     .key_close = "\"",
                                     .value_open = ">",
                                     .value_close = "</｜DSML｜parameter>",
                                     .call_close = "</｜DSML｜invoke>",
                                     .close = {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"},
                                     .text_attribute = "string=\"true\"",
                                     .json_attribute = "string=\"false\""},
                                    schemas);
              },
          .inner_marks = {"<｜DSML｜invoke"}};
}

}  // namespace shoal
