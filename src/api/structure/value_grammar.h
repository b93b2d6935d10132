// Grammars of values in notations that are not JSON, or not quite: rules in Lark for what a JSON schema describes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/json.h"
#include "api/structure/flat_schema.h"
#include "api/structure/lark_text.h"

namespace shoal {

/// How values are written.
struct ValueNotation {
  std::string quote = "";  ///< The marker around strings, which have no escapes; "": as in JSON.
  bool bare_keys = false;  ///< {key: value}, in the order of the keys.
  std::string yes = "true", no = "false", none = "null";
  std::string comma = ", ", colon = ": ";
  std::vector<std::string> forbidden = {};  ///< Texts that no string may have in it: they would end it.
};

/// The text of strings: one of some, or all of a regular expression.
struct StringText {
  std::vector<std::string> values;
  std::string regex;  ///< Where there are no values.
};

/// Makes rules for the schemas of one tool. What can't be enforced is left out, and remembered for tools that are strict.
class ValueGrammar {
 public:
  /// root: what "#" stands for in the schemas' references.
  ValueGrammar(LarkText& lark, const Json& root, ValueNotation notation)
      : lark_(lark), root_(root), notation_(std::move(notation)) {}

  /// The name of the rule of a value of `schema`.
  std::string rule(const Json& schema);
  std::vector<FlatSchema> flat(const Json& schema);
  /// An expression for one alternative.
  std::string alternative(const FlatSchema& flat);
  /// The same as plain text: of one that is a string.
  StringText text(const FlatSchema& flat);
  /// An expression for the members of an object, `name` and `colon` before each value.
  struct Member {
    std::string key;    ///< An expression, with what is between it and the value.
    std::string value;  ///< An expression.
    bool required = false;
  };
  std::string members(const std::vector<Member>& all, const std::string& more);
  /// The schema of properties that are not named; null: there are none.
  static const Json* Additional(const FlatSchema& flat);

  void refuse(std::string_view keyword);
  /// The first keyword that can't be enforced exactly; empty: all are.
  const std::string& refused() const { return refused_; }

 private:
  std::string literal(const Json& value);
  std::string string(const FlatSchema& flat);
  std::string object(const FlatSchema& flat);
  std::string array(const FlatSchema& flat);
  std::string any();
  std::string key(const std::string& name);
  std::string pattern(const std::string& pattern);
  std::string length(const FlatSchema& flat, std::string_view character);

  LarkText& lark_;
  const Json& root_;
  const ValueNotation notation_;
  std::map<std::string, std::string> rules_;  ///< By the schema's text: schemas may refer to themselves.
  std::string any_;
  std::string refused_;
};

}  // namespace shoal
