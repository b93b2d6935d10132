#include <nlohmann/json.hpp>

#include "base/json.h"
#include "plan/config_tree.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;
using Kind = ConfigValue::Kind;

/// Adds `json` to the tree. False after an error, which the tree holds.
bool Add(const Json& json, ConfigTree& tree) {
  constexpr int kNoLine = 0;
  switch (json.type()) {
    case Json::value_t::object:
      if (!tree.open(Kind::kMap, kNoLine)) return false;
      for (const auto& [key, value] : json.items()) {
        if (!tree.add_key(key, kNoLine) || !Add(value, tree)) return false;
      }
      return tree.close();
    case Json::value_t::array:
      if (!tree.open(Kind::kList, kNoLine)) return false;
      for (const Json& value : json) {
        if (!Add(value, tree)) return false;
      }
      return tree.close();
    case Json::value_t::string:
      return tree.add_string(json.get<std::string>(), kNoLine);
    case Json::value_t::boolean:
      return tree.add_bool(json.get<bool>(), kNoLine);
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) break;
      return tree.add_integer(json.get<int64_t>(), kNoLine);
    case Json::value_t::number_integer:
      return tree.add_integer(json.get<int64_t>(), kNoLine);
    case Json::value_t::null:
      return tree.add_null(kNoLine);
    default:
      break;
  }
  return tree.add_number(json.get<double>(), kNoLine);
}

}  // namespace

absl::StatusOr<ConfigValue> ParseJsonConfig(std::string_view text, const ConfigLimits& limits) {
  RETURN_IF_ERROR(CheckConfigSize(text, limits));
  Json json;
  RETURN_IF_ERROR(ReadJson(text, {.depth_max = limits.depth, .keys_max = kConfigKeysMax}, &json));
  ConfigTree tree(limits);
  if (!Add(json, tree)) return tree.status();
  return tree.take_root();
}

}  // namespace shoal
