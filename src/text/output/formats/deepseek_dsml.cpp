// DeepSeek V3.2 and V4:
//   <｜DSML｜function_calls>
//   <｜DSML｜invoke name="get_weather">
//   <｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>
//   </｜DSML｜invoke>
//   </｜DSML｜function_calls>
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat DeepSeekDsmlFormat() {
  XmlCallsSyntax syntax = InvokeTags("｜DSML｜", {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"});
  syntax.text_attribute = "string=\"true\"";
  syntax.json_attribute = "string=\"false\"";
  CallWriting v32 = InvokeWriting(syntax, "<｜DSML｜function_calls>", syntax.close[0]);
  v32.text_attribute = {" " + syntax.text_attribute};
  v32.json_attribute = {" " + syntax.json_attribute};
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
