// Firefunction: functools[{"name": "get_weather", "arguments": {"city": "Paris"}}]
#include "text/output/tool_format.h"

namespace shoal {

ToolFormat FirefunctionFormat() {
  const std::string open = "functools[";
  return {.name = "firefunction",
          .recognized_by = {{"functools["}},
          .openers = {open},
          .calls = {JsonCallsSyntax{}},
          .writings = {{.preface = {Maybe(" ")},
                        .opener = open,
                        .before_name = NameMember("name"),
                        .after_name = ArgumentsMember("arguments"),
                        .after_arguments = {"}"},
                        .separator = {", "},
                        .end = {"]"}}}};
}

}  // namespace shoal
