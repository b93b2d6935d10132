// What a request's tools say of their parameters: the types that formats without types of their own need.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

/// JSON types that a value may have; none is known if all are false.
struct ValueTypes {
  bool text = false;
  bool other = false;  ///< Number, boolean, object, array, null.
};

/// A schema within those of a tool; it may be of no tool, and says nothing then.
class SchemaNode {
 public:
  SchemaNode() = default;
  SchemaNode(const nlohmann::ordered_json* schema, const nlohmann::ordered_json* root)
      : schema_(schema), root_(root) {}

  ValueTypes types() const;
  /// Where nothing is said, it may be both.
  bool may_be_array() const { return may_be("array", "items"); }
  bool may_be_object() const { return may_be("object", "properties"); }
  /// The schema of a property; of additional ones where it is not named.
  SchemaNode property(std::string_view name) const;
  SchemaNode items() const;

 private:
  bool may_be(std::string_view type, std::string_view keyword) const;

  const nlohmann::ordered_json* schema_ = nullptr;
  const nlohmann::ordered_json* root_ = nullptr;  ///< What "#" of a reference stands for.
};

class ToolSchemas {
 public:
  ToolSchemas() = default;
  /// tools: JSON as in a chat request, [{"type": "function", "function": {"name", "parameters"}}], or "". What is
  /// not of this shape is passed over: nothing is known of it.
  static ToolSchemas FromJson(std::string_view tools);

  bool has(std::string_view tool) const { return tools_.find(tool) != tools_.end(); }
  /// The schema of all parameters of a tool.
  SchemaNode parameters(std::string_view tool) const;
  ValueTypes types(std::string_view tool, std::string_view parameter) const {
    return parameters(tool).property(parameter).types();
  }
  /// The name of a positional parameter; "" if there is none.
  std::string parameter(std::string_view tool, size_t position) const;

 private:
  std::map<std::string, std::shared_ptr<const nlohmann::ordered_json>, std::less<>> tools_;
};

/// The JSON of a parameter's value that a format writes as plain text. Text stays text; what may be something else
/// and is JSON, or nearly so ("True", "{'a': 1}"), becomes that.
std::string ValueJson(std::string_view text, ValueTypes types);

}  // namespace shoal
