#include "api/structure/value_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/structure/string_regex.h"
#include "api/structure/structure.h"
#include "text/output/json_text.h"

namespace shoal {
namespace {

std::string Either(const std::vector<std::string>& expressions) {
  return fmt::format("({})", fmt::join(expressions, " | "));
}

int64_t Count(const FlatSchema& flat, const char* key, int64_t otherwise) {
  const auto found = flat.keywords->find(key);
  return found != flat.keywords->end() && found->is_number_integer() ? found->get<int64_t>() : otherwise;
}

}  // namespace

void ValueGrammar::refuse(std::string_view keyword) {
  if (refused_.empty()) refused_ = keyword;
}

std::vector<FlatSchema> ValueGrammar::flat(const Json& schema) {
  FlatSchemas flat = Flatten(schema, root_);
  if (!flat.refused.empty()) refuse(flat.refused);
  return std::move(flat.alternatives);
}

std::string ValueGrammar::rule(const Json& schema) {
  const std::string text = DumpJson(schema);
  if (const auto known = rules_.find(text); known != rules_.end()) return known->second;
  const std::string name = lark_.fresh("value");
  rules_.emplace(text, name);
  std::vector<std::string> either;
  for (const FlatSchema& one : flat(schema)) {
    if (std::string expression = alternative(one); !expression.empty())
      either.push_back(std::move(expression));
  }
  if (either.empty()) either.push_back("/[^\\s\\S]/");  // No value is of the schema.
  lark_.add(fmt::format("{}: {}", name, fmt::join(either, " | ")));
  return name;
}

std::string ValueGrammar::alternative(const FlatSchema& flat) {
  if (flat.values != nullptr) {
    std::vector<std::string> either;
    for (const Json& value : *flat.values) {
      if (std::string expression = literal(value); !expression.empty())
        either.push_back(std::move(expression));
    }
    return either.empty() ? "" : Either(either);
  }
  if (flat.type == "string") return string(flat);
  if (flat.type == "object") return object(flat);
  if (flat.type == "array") return array(flat);
  if (flat.type == "boolean") return fmt::format("({} | {})", Quoted(notation_.yes), Quoted(notation_.no));
  if (flat.type == "null") return Quoted(notation_.none);
  if (flat.type == "integer" || flat.type == "number") {
    Json number = *flat.keywords;
    number["type"] = flat.type;
    const std::string name = lark_.fresh("number");
    lark_.add(fmt::format("{}: %json {}", name, SchemaText(number)));
    return name;
  }
  if (!flat.type.empty()) refuse("type");
  return any();
}

// ---- Strings ----

StringText ValueGrammar::text(const FlatSchema& flat) {
  if (flat.values != nullptr) {
    StringText out;
    for (const Json& value : *flat.values) {
      if (value.is_string()) out.values.push_back(value.get<std::string>());
    }
    return out;
  }
  if (flat.keywords->contains("pattern") && (*flat.keywords)["pattern"].is_string()) {
    if (flat.keywords->contains("format")) refuse("format");
    if (flat.keywords->contains("minLength") || flat.keywords->contains("maxLength")) refuse("minLength");
    return {.values = {}, .regex = pattern((*flat.keywords)["pattern"].get<std::string>())};
  }
  if (flat.keywords->contains("format") && (*flat.keywords)["format"].is_string()) {
    const std::string format = (*flat.keywords)["format"].get<std::string>();
    const std::string_view regex = FormatRegex(format);
    if (flat.keywords->contains("minLength") || flat.keywords->contains("maxLength")) refuse("minLength");
    if (!regex.empty()) return {.values = {}, .regex = std::string(regex)};
    refuse("format");
  }
  return {.values = {}, .regex = length(flat, "(?s:.)")};
}

std::string ValueGrammar::pattern(const std::string& pattern) {
  if (auto regex = SearchRegex(pattern)) return *std::move(regex);
  refuse("pattern");
  return "(?s:.*)";
}

std::string ValueGrammar::length(const FlatSchema& flat, std::string_view character) {
  const int64_t least = Count(flat, "minLength", 0);
  const int64_t most = Count(flat, "maxLength", -1);
  if (least == 0 && most < 0) return fmt::format("{}*", character);
  if (most >= 0 && most < least) return "[^\\s\\S]";
  return most < 0 ? fmt::format("{}{{{},}}", character, least)
                  : fmt::format("{}{{{},{}}}", character, least, most);
}

std::string ValueGrammar::string(const FlatSchema& flat) {
  if (!notation_.quote.empty()) {
    const std::string text_of = text(flat).regex;
    return lark_.mark(notation_.quote) + " " +
           lark_.text_and({.regex = text_of, .forbidden = {notation_.quote}}, notation_.quote);
  }
  const bool free = !flat.keywords->contains("pattern") && !flat.keywords->contains("format");
  if (free) {
    const std::string characters = length(flat, R"((?:[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt]))");
    return lark_.terminal_without("\"" + characters + "\"", notation_.forbidden);
  }
  // Texts that need no escapes: those of patterns seldom do.
  std::vector<std::string> forbidden = notation_.forbidden;
  const std::string name = lark_.terminal_without("\"(?:" + text(flat).regex + ")\"", forbidden);
  const std::string plain = lark_.fresh("PLAIN");
  lark_.add(fmt::format("{}: {} & {}", plain, name, R"(/"[^"\\\x00-\x1f\x7f]*"/)"));
  return plain;
}

std::string ValueGrammar::literal(const Json& value) {
  if (value.is_string()) {
    const auto text = value.get<std::string>();
    const std::string written = notation_.quote.empty() ? JsonQuoted(text) : text;
    const bool ends = std::ranges::any_of(notation_.forbidden,
                                          [&](const std::string& mark) { return written.contains(mark); });
    if (ends || (!notation_.quote.empty() && text.contains(notation_.quote))) return "";
    if (notation_.quote.empty()) return Quoted(written);
    const std::string quote = lark_.mark(notation_.quote);
    return fmt::format("{} {} {}", quote, Quoted(text), quote);
  }
  if (value.is_boolean()) return Quoted(value.get<bool>() ? notation_.yes : notation_.no);
  if (value.is_null()) return Quoted(notation_.none);
  if (!value.is_structured()) return Quoted(DumpJson(value));
  std::string out;
  const auto add = [&](const std::string& expression) { out += (out.empty() ? "" : " ") + expression; };
  add(value.is_array() ? "\"[\"" : "\"{\"");
  bool first = true;
  for (const auto& [name, item] : value.items()) {
    if (!std::exchange(first, false)) add(Quoted(notation_.comma));
    const std::string before = value.is_object() ? key(name) : "";
    const std::string expression = literal(item);
    if (expression.empty() || (value.is_object() && before.empty())) return "";
    if (value.is_object()) add(before);
    add(expression);
  }
  add(value.is_array() ? "\"]\"" : "\"}\"");
  return out;
}

// ---- Objects and arrays ----

std::string ValueGrammar::key(const std::string& name) {
  if (!notation_.bare_keys) {
    const std::string quoted = JsonQuoted(name);
    const bool ends = std::ranges::any_of(notation_.forbidden,
                                          [&](const std::string& mark) { return quoted.contains(mark); });
    return ends ? "" : Quoted(quoted + notation_.colon);
  }
  const bool plain = !name.empty() && std::ranges::none_of(name, [](char c) {
    return IsSpace(c) || std::string_view(",:\"'[](){}<|").contains(c);
  });
  return plain ? Quoted(name + notation_.colon) : "";
}

const Json* ValueGrammar::Additional(const FlatSchema& flat) {
  static const auto& any = *new Json(Json::object());
  const auto found = flat.keywords->find("additionalProperties");
  if (found != flat.keywords->end()) return found->is_object() ? &*found : *found == true ? &any : nullptr;
  // Those of a schema that names some are not invented.
  return flat.keywords->contains("properties") ? nullptr : &any;
}

std::string ValueGrammar::members(const std::vector<Member>& all, const std::string& more) {
  // rest: what may follow a member, each with a comma; first: what may stand there without one.
  std::string rest = more.empty() ? "" : fmt::format("({} {})*", Quoted(notation_.comma), more);
  std::string first = more.empty() ? "" : fmt::format("({} {})?", more, rest);
  for (size_t i = all.size(); i > 0; --i) {
    const Member& member = all[i - 1];
    const std::string one = member.key + " " + member.value;
    const std::string here = lark_.fresh("first"), next = lark_.fresh("rest");
    const std::string behind = one + " " + rest;
    lark_.add(fmt::format("{}: {}{}", here, behind,
                          member.required ? "" : fmt::format(" | {}", first.empty() ? "\"\"" : first)));
    const std::string comma = Quoted(notation_.comma);
    lark_.add(member.required ? fmt::format("{}: {} {} {}", next, comma, one, rest)
                              : fmt::format("{}: ({} {})? {}", next, comma, one, rest));
    first = here;
    rest = next;
  }
  return first.empty() ? "\"\"" : first;
}

std::string ValueGrammar::object(const FlatSchema& flat) {
  std::vector<Member> all;
  std::vector<std::string> names;
  const Json none = Json::object();
  const Json& properties = flat.keywords->contains("properties") && (*flat.keywords)["properties"].is_object()
                               ? (*flat.keywords)["properties"]
                               : none;
  const auto is_required = [&](const std::string& name) {
    return flat.keywords->contains("required") && (*flat.keywords)["required"].is_array() &&
           std::ranges::find((*flat.keywords)["required"], Json(name)) != (*flat.keywords)["required"].end();
  };
  std::vector<std::pair<std::string, Json>> items;
  for (const auto& [name, schema] : properties.items()) items.emplace_back(name, schema);
  if (flat.keywords->contains("required") && (*flat.keywords)["required"].is_array()) {
    for (const Json& name : (*flat.keywords)["required"]) {
      if (name.is_string() && !properties.contains(name.get<std::string>())) {
        const Json* const more = Additional(flat);
        items.emplace_back(name.get<std::string>(), more == nullptr ? Json::object() : *more);
      }
    }
  }
  if (notation_.bare_keys) std::ranges::stable_sort(items, {}, [](const auto& item) { return item.first; });
  for (const auto& [name, schema] : items) {
    const std::string before = key(name);
    if (before.empty()) {
      if (is_required(name)) refuse("required");
      continue;
    }
    names.push_back(name);
    all.push_back({before, rule(schema), is_required(name)});
  }
  std::string more;
  if (const Json* const schema = Additional(flat)) {
    const std::string other = lark_.fresh("KEY");
    const std::string quote = notation_.bare_keys ? "" : "\"";
    std::string differ;
    if (!names.empty())
      differ = fmt::format(" & ~/{0}{1}{0}{2}/", quote, ChoiceRegex(names), ChoiceRegex({notation_.colon}));
    lark_.add(fmt::format("{}: /{}[a-zA-Z_][a-zA-Z0-9_]{{0,40}}{}{}/{}", other, quote, quote,
                          ChoiceRegex({notation_.colon}), differ));
    more = fmt::format("{} {}", other, rule(*schema));
  }
  return fmt::format("\"{{\" {} \"}}\"", members(all, more));
}

std::string ValueGrammar::array(const FlatSchema& flat) {
  const int64_t least = Count(flat, "minItems", 0);
  const int64_t most = Count(flat, "maxItems", -1);
  std::vector<std::string> first;
  if (flat.keywords->contains("prefixItems") && (*flat.keywords)["prefixItems"].is_array()) {
    for (const Json& schema : (*flat.keywords)["prefixItems"]) first.push_back(rule(schema));
  }
  const Json any_item = Json::object();
  const auto items = flat.keywords->find("items");
  const bool open = items == flat.keywords->end() || *items != false;
  const std::string item = open ? rule(items == flat.keywords->end() ? any_item : *items) : "";
  const std::string comma = Quoted(notation_.comma);
  // From the back: what may follow the item before.
  const auto fixed = static_cast<int64_t>(first.size());
  std::string rest;
  if (open && (most < 0 || most > fixed)) {
    const int64_t from = std::max<int64_t>(0, least - std::max<int64_t>(fixed, 1));
    const std::string one = fmt::format("({} {})", comma, item);
    const int64_t to = most - std::max<int64_t>(fixed, 1);
    rest = most < 0 ? fmt::format("{}{{{},}}", one, from) : fmt::format("{}{{{},{}}}", one, from, to);
    if (most >= 0 && to <= 0) rest = "";
  }
  if (first.empty()) {
    if (!open || most == 0) return "\"[\" \"]\"";
    return fmt::format("\"[\" ({} {}){} \"]\"", item, rest, least == 0 ? "?" : "");
  }
  for (int64_t i = fixed; i > 0; --i) {
    const std::string lead = i == 1 ? "" : comma + " ";
    const bool may_miss = least < i;
    const bool may_be = most < 0 || most >= i;
    rest = !may_be ? ""
                   : fmt::format("({}{} {}){}", lead, first[static_cast<size_t>(i - 1)], rest,
                                 may_miss ? "?" : "");
  }
  return fmt::format("\"[\" {} \"]\"", rest);
}

std::string ValueGrammar::any() {
  if (!any_.empty()) return any_;
  any_ = lark_.fresh("any");
  std::vector<std::string> either;
  for (const char* type : {"string", "number", "boolean", "null", "array", "object"}) {
    either.push_back(alternative({.type = type, .keywords = NoKeywords()}));
  }
  lark_.add(fmt::format("{}: {}", any_, fmt::join(either, " | ")));
  return any_;
}

}  // namespace shoal
