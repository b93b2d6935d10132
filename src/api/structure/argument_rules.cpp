#include "api/structure/argument_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "api/structure/structure.h"
#include "text/output/json_text.h"

namespace shoal {
namespace {

/// A text that only looks like text to a parser that takes JSON for what it is: it begins like a word, and is none of
/// JSON's or Python's.
constexpr const char* kWordly = R"(/(?:[^\s"\[{0-9\-](?s:.*))?/)";
constexpr const char* kWords = "(?:true|false|null|True|False|None)";

bool LooksLikeJson(std::string_view text) {
  const std::string_view trimmed = Trimmed(text);
  if (trimmed.empty() || trimmed.front() == '{' || trimmed.front() == '[' || IsJson(trimmed)) return true;
  return trimmed == "True" || trimmed == "False" || trimmed == "None";
}

bool IsIdentifier(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && letter(name.front()) &&
         std::ranges::all_of(name, [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

/// A property of an object, as schemas name it.
struct Property {
  std::string name;
  const Json* schema = nullptr;
  bool required = false;
};

std::vector<Property> PropertiesOf(const FlatSchema& flat) {
  static const auto& any = *new Json(Json::object());
  std::vector<Property> all;
  const auto required = flat.keywords->find("required");
  const bool listed = required != flat.keywords->end() && required->is_array();
  const auto is_required = [&](const std::string& name) {
    return listed && std::ranges::find(*required, Json(name)) != required->end();
  };
  const auto properties = flat.keywords->find("properties");
  if (properties != flat.keywords->end() && properties->is_object()) {
    for (const auto& [name, schema] : properties->items()) all.push_back({name, &schema, is_required(name)});
  }
  if (!listed) return all;
  const Json* const more = ValueGrammar::Additional(flat);
  for (const Json& name : *required) {
    const bool known =
        !name.is_string() || std::ranges::find(all, name.get<std::string>(), &Property::name) != all.end();
    if (!known) all.push_back({name.get<std::string>(), more == nullptr ? &any : more, true});
  }
  return all;
}

/// The alternatives of a tool's parameters that are objects: there is no other way to write arguments.
std::vector<FlatSchema> ObjectsOf(const Json& parameters, ValueGrammar& values) {
  std::vector<FlatSchema> all = values.flat(parameters);
  std::erase_if(all, [](const FlatSchema& flat) { return flat.type != "object" || flat.values != nullptr; });
  return all;
}

std::string Either(const std::vector<std::string>& expressions) {
  return fmt::format("({})", fmt::join(expressions, " | "));
}

/// Values as text that a marker ends, as formats without types have them.
struct PlainText {
  std::vector<std::string> forbidden;  ///< What no text may have in it.
  std::string closer;
  bool no_newline_first = false;  ///< The parser takes a newline for a frame.
  bool mixed = false;             ///< The parser takes what looks like JSON for JSON.
};

/// Expressions of the texts of a string schema, each with the closer.
void AddTexts(const StringText& text, const PlainText& plain, LarkText& lark,
              std::vector<std::string>& either) {
  for (const std::string& value : text.values) {
    const bool ends =
        std::ranges::any_of(plain.forbidden, [&](const std::string& mark) { return value.contains(mark); });
    const bool framed = plain.no_newline_first && value.starts_with('\n');
    if (ends || framed || (plain.mixed && LooksLikeJson(value))) continue;
    either.push_back(Quoted(value) + " " + lark.mark(plain.closer));
  }
  if (!text.values.empty() || text.regex.empty()) return;
  std::string conditions;
  if (plain.no_newline_first) conditions += R"( & /(?:[^\n](?s:.*))?/)";
  if (plain.mixed) conditions += fmt::format(" & {}", kWordly);
  either.push_back(lark.text_and({.regex = text.regex,
                                  .forbidden = plain.forbidden,
                                  .conditions = std::move(conditions),
                                  .never = plain.mixed ? kWords : ""},
                                 plain.closer));
}

/// One alternative of a value apart: its strings, and what else it has.
struct Apart {
  std::optional<FlatSchema> strings, others;
};
Apart Split(const FlatSchema& flat) {
  if (flat.values == nullptr) {
    return flat.type == "string" ? Apart{flat, std::nullopt} : Apart{std::nullopt, flat};
  }
  Json strings = Json::array(), others = Json::array();
  for (const Json& value : *flat.values) (value.is_string() ? strings : others).push_back(value);
  Apart out;
  const auto side = [&](Json values) {
    return FlatSchema{.type = flat.type,
                      .keywords = NoKeywords(),
                      .values = std::make_shared<const Json>(std::move(values))};
  };
  if (!strings.empty()) out.strings = side(std::move(strings));
  if (!others.empty()) out.others = side(std::move(others));
  return out;
}

// ---- Elements ----

class Elements {
 public:
  Elements(const Json& parameters, const XmlCallsSyntax& syntax, const CallWriting& writing, LarkText& lark)
      : parameters_(parameters),
        syntax_(syntax),
        writing_(writing),
        lark_(lark),
        values_(lark, parameters, {.forbidden = marks(syntax)}) {}

  ArgumentRules make() {
    std::vector<std::string> either;
    for (const FlatSchema& flat : ObjectsOf(parameters_, values_)) either.push_back(object(flat));
    if (either.empty()) values_.refuse("type");
    return {either.empty() ? "\"\"" : Either(either), values_.refused()};
  }

 private:
  static std::vector<std::string> marks(const XmlCallsSyntax& syntax) {
    std::vector<std::string> all = {syntax.value_close};
    if (!syntax.quote_open.empty()) all.insert(all.end(), {syntax.quote_open, syntax.quote_close});
    return all;
  }

  std::string object(const FlatSchema& flat) {
    std::string out;
    std::vector<std::string> names;
    for (const Property& property : PropertiesOf(flat)) {
      const std::string& name = property.name;
      const bool writable = !name.empty() && Trimmed(name) == name && !name.contains(syntax_.key_close) &&
                            !name.contains('\n') && !name.contains('<');
      if (!writable) {
        if (property.required) values_.refuse("required");
        continue;
      }
      names.push_back(name);
      const std::string one =
          lark_.mark(syntax_.key_open + name + syntax_.key_close) + " " + value(name, *property.schema);
      out += property.required ? one + " " : fmt::format("({})? ", one);
    }
    if (const Json* const more = ValueGrammar::Additional(flat)) {
      const std::string key = lark_.fresh("KEY");
      const std::string differ = names.empty() ? "" : fmt::format(" & ~/{}/", ChoiceRegex(names));
      lark_.add(fmt::format("{}: /[a-zA-Z_][a-zA-Z0-9_]{{0,40}}/{}", key, differ));
      out += fmt::format("({} {} {} {})*", lark_.mark(syntax_.key_open), key, lark_.mark(syntax_.key_close),
                         value("", *more));
    }
    return out.empty() ? "\"\"" : out;
  }

  /// What follows a key: attributes, the value, and its end.
  std::string value(const std::string& name, const Json& schema) {
    const SchemaNode node(&parameters_, &parameters_);
    const ValueTypes types =
        name.empty() ? SchemaNode(&schema, &parameters_).types() : node.property(name).types();
    const bool marked = !writing_.text_attribute.empty();
    const std::string closer = writing_.frame + syntax_.value_close;
    const PlainText plain{.forbidden = marks(syntax_),
                          .closer = closer,
                          .no_newline_first = syntax_.framed && writing_.frame.empty(),
                          .mixed = !marked && types.other};
    std::vector<std::string> texts, others;
    for (const FlatSchema& flat : values_.flat(schema)) {
      const Apart apart = Split(flat);
      if (apart.strings.has_value() && (marked || types.text)) {
        AddTexts(values_.text(*apart.strings), plain, lark_, texts);
      } else if (apart.strings.has_value()) {
        add_other(*apart.strings, closer, others);
      }
      if (apart.others.has_value()) add_other(*apart.others, closer, others);
    }
    std::vector<std::string> either;
    if (!texts.empty())
      either.push_back(lark_.notation(writing_.text_attribute) + " " + before_value() + Either(texts));
    if (!others.empty())
      either.push_back(lark_.notation(writing_.json_attribute) + " " + before_value() + Either(others));
    if (either.empty()) {
      values_.refuse("enum");
      either.push_back(lark_.mark(closer));
    }
    return fmt::format("{} {}", Either(either), lark_.notation(writing_.after_value));
  }

  std::string before_value() {
    std::string out = lark_.notation(writing_.before_value);
    if (!syntax_.value_open.empty()) out += " " + lark_.mark(syntax_.value_open);
    if (!writing_.frame.empty()) out += " " + Quoted(writing_.frame);
    return out + " ";
  }

  void add_other(const FlatSchema& flat, const std::string& closer, std::vector<std::string>& others) {
    std::string expression = values_.alternative(flat);
    if (expression.empty()) return;
    const bool free = flat.values == nullptr && writing_.python_words;
    if (free && flat.type == "boolean") expression = R"(("true" | "false" | "True" | "False"))";
    if (free && flat.type == "null") expression = R"(("null" | "None"))";
    others.push_back(expression + " " + lark_.mark(closer));
  }

  const Json& parameters_;
  const XmlCallsSyntax& syntax_;
  const CallWriting& writing_;
  LarkText& lark_;
  ValueGrammar values_;
};

// ---- Nested elements ----

class Nested {
 public:
  Nested(const Json& parameters, const NestedCallsSyntax& syntax, LarkText& lark)
      : parameters_(parameters),
        syntax_(syntax),
        lark_(lark),
        values_(lark, parameters, {.forbidden = {syntax.mark}}) {}

  ArgumentRules make() {
    std::vector<std::string> either;
    for (const FlatSchema& flat : ObjectsOf(parameters_, values_)) either.push_back(object(flat));
    if (either.empty()) values_.refuse("type");
    return {either.empty() ? "\"\"" : Either(either), values_.refused()};
  }

 private:
  std::string element(const std::string& name, const Json& schema) {
    return fmt::format("{} {} {}", lark_.mark(syntax_.mark + "<" + name + ">"), content(schema),
                       Quoted("</" + name + ">"));
  }

  std::string object(const FlatSchema& flat) {
    std::string out;
    for (const Property& property : PropertiesOf(flat)) {
      if (!IsIdentifier(property.name)) {
        if (property.required) values_.refuse("required");
        continue;
      }
      const std::string one = element(property.name, *property.schema);
      out += property.required ? one + " " : fmt::format("({})? ", one);
    }
    return out.empty() ? "\"\"" : out;
  }

  std::string array(const FlatSchema& flat) {
    static const auto& any = *new Json(Json::object());
    if (flat.keywords->contains("prefixItems")) values_.refuse("prefixItems");
    const auto items = flat.keywords->find("items");
    const auto bound = [&](const char* key) {
      const auto found = flat.keywords->find(key);
      return found != flat.keywords->end() && found->is_number_integer()
                 ? std::to_string(found->get<int64_t>())
                 : "";
    };
    const std::string least = bound("minItems"), most = bound("maxItems");
    const std::string item = element(syntax_.item, items == flat.keywords->end() ? any : *items);
    return fmt::format("({}){{{},{}}}", item, least.empty() ? "0" : least, most);
  }

  /// The rule of what an element has in it, and the mark of the tag that ends it.
  std::string content(const Json& schema) {
    const std::string text = DumpJson(schema);
    if (const auto known = rules_.find(text); known != rules_.end()) return known->second;
    const std::string name = lark_.fresh("content");
    rules_.emplace(text, name);
    const ValueTypes types = SchemaNode(&schema, &parameters_).types();
    const PlainText plain{
        .forbidden = {syntax_.mark}, .closer = syntax_.mark, .mixed = types.other || !types.text};
    std::vector<std::string> either;
    for (const FlatSchema& flat : values_.flat(schema)) {
      const Apart apart = Split(flat);
      if (apart.strings.has_value()) AddTexts(values_.text(*apart.strings), plain, lark_, either);
      if (apart.others.has_value()) add_other(*apart.others, plain, either);
    }
    if (either.empty()) {
      values_.refuse("enum");
      either.push_back(lark_.mark(syntax_.mark));
    }
    lark_.add(fmt::format("{}: {}", name, fmt::join(either, " | ")));
    return name;
  }

  void add_other(const FlatSchema& flat, const PlainText& plain, std::vector<std::string>& either) {
    const std::string mark = lark_.mark(syntax_.mark);
    if (flat.values != nullptr) {
      Json scalars = Json::array();
      for (const Json& value : *flat.values) {
        if (!value.is_structured()) scalars.push_back(value);
      }
      if (scalars.size() != flat.values->size()) values_.refuse("enum");
      if (scalars.empty()) return;
      either.push_back(values_.alternative({.type = flat.type,
                                            .keywords = NoKeywords(),
                                            .values = std::make_shared<const Json>(std::move(scalars))}) +
                       " " + mark);
    } else if (flat.type == "object") {
      either.push_back(object(flat) + " " + mark);
    } else if (flat.type == "array") {
      either.push_back(array(flat) + " " + mark);
    } else if (flat.type.empty()) {
      AddTexts({.values = {}, .regex = "(?s:.+)"}, plain, lark_, either);
      for (const char* type : {"number", "boolean"}) {
        either.push_back(values_.alternative({.type = type, .keywords = NoKeywords()}) + " " + mark);
      }
    } else {
      either.push_back(values_.alternative(flat) + " " + mark);
    }
  }

  const Json& parameters_;
  const NestedCallsSyntax& syntax_;
  LarkText& lark_;
  ValueGrammar values_;
  std::map<std::string, std::string> rules_;
};

}  // namespace

ArgumentRules AddElements(const Json& parameters, const XmlCallsSyntax& syntax, const CallWriting& writing,
                          LarkText& lark) {
  return Elements(parameters, syntax, writing, lark).make();
}

ArgumentRules AddNested(const Json& parameters, const NestedCallsSyntax& syntax, LarkText& lark) {
  return Nested(parameters, syntax, lark).make();
}

ArgumentRules AddPython(const Json& parameters, LarkText& lark) {
  ValueGrammar values(lark, parameters, {.yes = "True", .no = "False", .none = "None"});
  std::vector<std::string> either;
  for (const FlatSchema& flat : ObjectsOf(parameters, values)) {
    std::vector<ValueGrammar::Member> all;
    std::vector<std::string> names;
    for (const Property& property : PropertiesOf(flat)) {
      if (IsIdentifier(property.name)) {
        names.push_back(property.name);
        all.push_back({Quoted(property.name + "="), values.rule(*property.schema), property.required});
      } else if (property.required) {
        values.refuse("required");
      }
    }
    std::string more;
    if (const Json* const schema = ValueGrammar::Additional(flat)) {
      const std::string key = lark.fresh("KEY");
      const std::string differ = names.empty() ? "" : fmt::format(" & ~/{}=/", ChoiceRegex(names));
      lark.add(fmt::format("{}: /[a-zA-Z_][a-zA-Z0-9_]{{0,40}}=/{}", key, differ));
      more = key + " " + values.rule(*schema);
    }
    either.push_back(values.members(all, more));
  }
  if (either.empty()) values.refuse("type");
  return {either.empty() ? "\"\"" : Either(either), values.refused()};
}

namespace {

ArgumentRules AddObject(const Json& parameters, ValueNotation notation, LarkText& lark) {
  ValueGrammar values(lark, parameters, std::move(notation));
  std::vector<std::string> either;
  for (const FlatSchema& flat : ObjectsOf(parameters, values)) either.push_back(values.alternative(flat));
  if (either.empty()) values.refuse("type");
  return {either.empty() ? "\"{}\"" : Either(either), values.refused()};
}

}  // namespace

ArgumentRules AddMarked(const Json& parameters, const std::string& quote, LarkText& lark) {
  return AddObject(parameters, {.quote = quote, .bare_keys = true, .comma = ",", .colon = ":"}, lark);
}

ArgumentRules AddJsonWithout(const Json& parameters, const std::vector<std::string>& forbidden,
                             LarkText& lark) {
  return AddObject(parameters, {.comma = ",", .colon = ":", .forbidden = forbidden}, lark);
}

}  // namespace shoal
