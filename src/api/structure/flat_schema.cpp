#include "api/structure/flat_schema.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

namespace shoal {
namespace {

constexpr int kDepthMax = 24;  ///< Of references and alternatives around one value.
constexpr size_t kAlternativesMax = 64;

constexpr std::array<std::string_view, 19> kSayNothing = {
    "title",   "description", "default",    "examples",         "example",        "$schema",   "$id",
    "id",      "$comment",    "$defs",      "definitions",      "readOnly",       "writeOnly", "deprecated",
    "$anchor", "nullable",    "x-guidance", "contentMediaType", "contentEncoding"};

/// Keywords by the type that they are of.
struct TypeKeywords {
  std::string_view type;
  std::vector<std::string_view> keywords;
};
const std::vector<TypeKeywords>& Known() {
  static const auto& known = *new std::vector<TypeKeywords>{
      {"object", {"properties", "required", "additionalProperties"}},
      {"array", {"items", "prefixItems", "minItems", "maxItems"}},
      {"string", {"minLength", "maxLength", "pattern", "format"}},
      {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}}};
  return known;
}

const TypeKeywords* KeywordsOf(std::string_view type) {
  const auto& known = Known();
  const auto found = std::ranges::find(known, type == "integer" ? "number" : type, &TypeKeywords::type);
  return found == known.end() ? nullptr : &*found;
}

std::string TypeOf(const Json& value) {
  if (value.is_string()) return "string";
  if (value.is_boolean()) return "boolean";
  if (value.is_null()) return "null";
  if (value.is_array()) return "array";
  if (value.is_object()) return "object";
  return value.is_number_integer() ? "integer" : "number";
}

/// The type of both; nullopt: there is none.
std::optional<std::string> CommonType(const std::string& a, const std::string& b) {
  if (a.empty() || a == b) return b;
  if (b.empty()) return a;
  if ((a == "integer" && b == "number") || (a == "number" && b == "integer")) return "integer";
  return std::nullopt;
}

/// What a JSON pointer points to; null: nothing.
const Json* Find(const Json& root, std::string_view pointer) {
  const Json* at = &root;
  while (!pointer.empty()) {
    pointer.remove_prefix(1);
    std::string key(pointer.substr(0, pointer.find('/')));
    pointer.remove_prefix(key.size());
    for (const auto& [escape, text] : {std::pair("~1", "/"), std::pair("~0", "~")}) {
      for (size_t i = key.find(escape); i != std::string::npos; i = key.find(escape, i + 1))
        key.replace(i, 2, text);
    }
    const bool index = at->is_array() && !key.empty() && key.size() < 9 &&
                       std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
    if (index && std::stoul(key) < at->size()) {
      at = &(*at)[std::stoul(key)];
    } else if (at->is_object() && at->contains(key)) {
      at = &(*at)[key];
    } else {
      return nullptr;
    }
  }
  return at;
}

std::shared_ptr<const Json> Shared(Json value) { return std::make_shared<const Json>(std::move(value)); }

class Flattener {
 public:
  explicit Flattener(const Json& root) : root_(root) {}

  std::vector<FlatSchema> flatten(const Json& schema, int depth) {
    if (schema.is_boolean()) return schema.get<bool>() ? any() : std::vector<FlatSchema>();
    if (!schema.is_object() || depth > kDepthMax) {
      refuse("$ref");
      return any();
    }
    std::vector<FlatSchema> all = own(schema);
    if (schema.contains("$ref")) all = both(all, referred(schema["$ref"], depth));
    if (schema.contains("allOf") && schema["allOf"].is_array()) {
      for (const Json& part : schema["allOf"]) all = both(all, flatten(part, depth + 1));
    }
    for (const char* key : {"anyOf", "oneOf"}) {
      if (!schema.contains(key) || !schema[key].is_array()) continue;
      std::vector<FlatSchema> either;
      for (const Json& part : schema[key]) {
        std::ranges::move(flatten(part, depth + 1), std::back_inserter(either));
      }
      if (std::string_view(key) == "oneOf" && !AreDistinct(either)) refuse("oneOf");
      all = both(all, either);
    }
    return all;
  }

  std::string take_refused() { return std::move(refused_); }

  /// Keywords of other types than the alternative's say nothing; those that nobody knows are refused.
  void check(FlatSchema& flat) {
    if (flat.type.empty() && flat.values == nullptr) infer(flat);
    const TypeKeywords* const known = KeywordsOf(flat.type);
    Json kept = Json::object();
    for (const auto& [key, value] : flat.keywords->items()) {
      const std::string_view name = key;
      const auto has = [&](const TypeKeywords& of) {
        return std::ranges::find(of.keywords, name) != of.keywords.end();
      };
      const bool some = std::ranges::any_of(Known(), has);
      if (known != nullptr && has(*known) && flat.values == nullptr) kept[key] = value;
      if (!some || (flat.values != nullptr && known != nullptr && has(*known))) refuse(key);
    }
    flat.keywords = Shared(std::move(kept));
  }

 private:
  static std::vector<FlatSchema> any() { return {{.type = "", .keywords = NoKeywords()}}; }

  /// What the schema itself says, but for its references and alternatives: one alternative for each type.
  static std::vector<FlatSchema> own(const Json& schema) {
    FlatSchema flat{.type = "", .keywords = NoKeywords()};
    Json keywords = Json::object();
    for (const auto& [key, value] : schema.items()) {
      const bool silent = std::ranges::find(kSayNothing, key) != kSayNothing.end() || key.starts_with("x-");
      const bool apart = key == "$ref" || key == "allOf" || key == "anyOf" || key == "oneOf" || key == "type";
      if (key == "const") {
        flat.values = Shared(Json::array({value}));
      } else if (key == "enum" && value.is_array() && flat.values == nullptr) {
        flat.values = Shared(value);
      } else if (!silent && !apart && key != "enum") {
        keywords[key] = value;
      }
    }
    flat.keywords = Shared(std::move(keywords));
    const auto type = schema.find("type");
    if (type == schema.end()) return {flat};
    std::vector<FlatSchema> all;
    for (const Json& name : type->is_array() ? *type : Json::array({*type})) {
      FlatSchema one = flat;
      one.type = name.is_string() ? name.get<std::string>() : "";
      if (one.values != nullptr) only_of_type(one);
      if (one.values == nullptr || !one.values->empty()) all.push_back(std::move(one));
    }
    return all;
  }

  static void only_of_type(FlatSchema& flat) {
    Json kept = Json::array();
    for (const Json& value : *flat.values) {
      if (CommonType(flat.type, TypeOf(value)).has_value()) kept.push_back(value);
    }
    flat.values = Shared(std::move(kept));
  }

  std::vector<FlatSchema> referred(const Json& reference, int depth) {
    const std::string path = reference.is_string() ? reference.get<std::string>() : "";
    if (path != "#" && !path.starts_with("#/")) {
      refuse("$ref");
      return any();
    }
    const Json* const found = Find(root_, path.substr(1));
    if (found == nullptr) {
      refuse("$ref");
      return any();
    }
    return flatten(*found, depth + 1);
  }

  /// Values that are of an alternative of each list.
  std::vector<FlatSchema> both(const std::vector<FlatSchema>& a, const std::vector<FlatSchema>& b) {
    std::vector<FlatSchema> all;
    for (const FlatSchema& left : a) {
      for (const FlatSchema& right : b) {
        if (auto joined = join(left, right)) all.push_back(*std::move(joined));
        if (all.size() > kAlternativesMax) {
          refuse("anyOf");
          return all;
        }
      }
    }
    return all;
  }

  std::optional<FlatSchema> join(const FlatSchema& a, const FlatSchema& b) {
    const std::optional<std::string> type = CommonType(a.type, b.type);
    if (!type.has_value()) return std::nullopt;
    FlatSchema out{.type = *type, .keywords = a.keywords, .values = a.values};
    if (out.values == nullptr) {
      out.values = b.values;
    } else if (b.values != nullptr) {
      Json kept = Json::array();
      for (const Json& value : *out.values) {
        if (std::ranges::find(*b.values, value) != b.values->end()) kept.push_back(value);
      }
      out.values = Shared(std::move(kept));
    }
    if (out.values != nullptr) only_of_type(out);
    if (out.values != nullptr && out.values->empty()) return std::nullopt;
    Json keywords = *a.keywords;
    for (const auto& [key, value] : b.keywords->items()) join_keyword(key, value, keywords);
    out.keywords = Shared(std::move(keywords));
    return out;
  }

  void join_keyword(const std::string& key, const Json& value, Json& into) {
    if (!into.contains(key) || into[key] == value) {
      into[key] = value;
    } else if (key == "required" && value.is_array()) {
      for (const Json& name : value) {
        if (std::ranges::find(into[key], name) == into[key].end()) into[key].push_back(name);
      }
    } else if (key == "properties" && value.is_object()) {
      for (const auto& [name, schema] : value.items()) {
        Json& property = into[key][name];
        property = property.is_null() || property == schema ? schema : Json{{"allOf", {property, schema}}};
      }
    } else if (key == "items") {
      into[key] = Json{{"allOf", {into[key], value}}};
    } else if (key.starts_with("min") && value.is_number()) {
      into[key] = std::max(into[key], value);
    } else if (key.starts_with("max") && value.is_number()) {
      into[key] = std::min(into[key], value);
    } else {
      refuse(key);
    }
  }

  /// The type that the keywords are of, where the schema names none. Values of other types would do, too.
  static void infer(FlatSchema& flat) {
    for (const TypeKeywords& of : Known()) {
      const bool says = std::ranges::any_of(
          of.keywords, [&](std::string_view key) { return flat.keywords->contains(std::string(key)); });
      if (says) {
        flat.type = of.type;
        return;
      }
    }
  }

  /// Whether no value is of two of them, as far as their types and values tell.
  static bool AreDistinct(const std::vector<FlatSchema>& all) {
    for (size_t i = 0; i < all.size(); ++i) {
      for (size_t j = i + 1; j < all.size(); ++j) {
        if (CommonType(all[i].type, all[j].type).has_value() && !DifferInValues(all[i], all[j])) return false;
      }
    }
    return true;
  }

  static bool DifferInValues(const FlatSchema& a, const FlatSchema& b) {
    if (a.values != nullptr && b.values != nullptr) {
      return std::ranges::none_of(*a.values, [&](const Json& value) {
        return std::ranges::find(*b.values, value) != b.values->end();
      });
    }
    if (a.type != "object" || b.type != "object") return false;
    // A property that both need, with a constant of each.
    const Json none = Json::object();
    const auto properties = [&](const FlatSchema& of) -> const Json& {
      return of.keywords->contains("properties") ? (*of.keywords)["properties"] : none;
    };
    const auto needs = [](const FlatSchema& of, const std::string& name) {
      return of.keywords->contains("required") && (*of.keywords)["required"].is_array() &&
             std::ranges::find((*of.keywords)["required"], Json(name)) != (*of.keywords)["required"].end();
    };
    for (const auto& [name, schema] : properties(a).items()) {
      const auto other = properties(b).find(name);
      if (other == properties(b).end() || !schema.is_object() || !other->is_object()) continue;
      const bool constants = schema.contains("const") && other->contains("const");
      if (constants && needs(a, name) && needs(b, name) && schema["const"] != (*other)["const"]) return true;
    }
    return false;
  }

  void refuse(const std::string& keyword) {
    if (refused_.empty()) refused_ = keyword;
  }

  const Json& root_;
  std::string refused_;
};

}  // namespace

std::shared_ptr<const Json> NoKeywords() {
  static const auto& none = *new std::shared_ptr<const Json>(Shared(Json::object()));
  return none;
}

FlatSchemas Flatten(const Json& schema, const Json& root) {
  Flattener flattener(root);
  FlatSchemas out;
  out.alternatives = flattener.flatten(schema, 0);
  for (FlatSchema& flat : out.alternatives) flattener.check(flat);
  out.refused = flattener.take_refused();
  return out;
}

}  // namespace shoal
