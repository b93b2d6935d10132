// What a request's tools say of their parameters: the types that formats without types of their own need.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

/// JSON types that a value may have; none is known if all are false.
struct ValueTypes {
  bool text = false;
  bool other = false;  ///< Number, boolean, object, array, null.
};

class ToolSchemas {
 public:
  ToolSchemas() = default;
  /// tools: JSON as in a chat request, [{"type": "function", "function": {"name", "parameters"}}], or "". What is
  /// not of this shape is passed over: nothing is known of it.
  static ToolSchemas FromJson(std::string_view tools);

  bool has(std::string_view tool) const { return tools_.find(tool) != tools_.end(); }
  ValueTypes types(std::string_view tool, std::string_view parameter) const;
  /// The name of a positional parameter; "" if there is none.
  std::string_view parameter(std::string_view tool, size_t position) const;

 private:
  struct Parameter {
    std::string name;
    ValueTypes types;
  };
  std::map<std::string, std::vector<Parameter>, std::less<>> tools_;
};

/// The JSON of a parameter's value that a format writes as plain text. Text stays text; what may be something else
/// and is JSON, or nearly so ("True", "{'a': 1}"), becomes that.
std::string ValueJson(std::string_view text, ValueTypes types);

}  // namespace shoal
