#include "formats/shard.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/status.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

constexpr std::string_view kFormat = "shoal-share-1";

/// Bounds shapes that no file's size bounds: more than any model has, and small enough that sizes computed
/// from them fit int64.
constexpr int64_t kElementsMax = int64_t{1} << 48;

using Json = nlohmann::json;

absl::StatusOr<std::string> TextAt(const Json& json, const char* key, std::string_view where) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_string()) {
    return InvalidArgument("{}: '{}': expected a text, found {}", where, key,
                           found == json.end() ? "nothing" : JsonExcerpt(*found));
  }
  return found->get<std::string>();
}

absl::StatusOr<const Json*> ObjectAt(const Json& json, const char* key, std::string_view where) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_object()) {
    return InvalidArgument("{}: '{}': expected an object, found {}", where, key,
                           found == json.end() ? "nothing" : JsonExcerpt(*found));
  }
  return &*found;
}

/// Whole numbers from 0 on.
std::optional<std::vector<int64_t>> Numbers(const Json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      return std::nullopt;
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

absl::StatusOr<SafetensorsWriter::Entry> ReadEntry(const std::string& name, const Json& json,
                                                   std::string_view where) {
  const bool pair = json.is_array() && json.size() == 2 && json[0].is_string();
  const auto dtype = pair ? DTypeFromSafetensors(json[0].get_ref<const std::string&>()) : std::nullopt;
  const auto shape = pair ? Numbers(json[1]) : std::nullopt;
  if (!dtype || !shape || ElementCount(*shape).value_or(INT64_MAX) > kElementsMax) {
    return InvalidArgument(
        "{}: tensor '{}': expected [dtype, shape] such as [\"BF16\", [64, 128]], of 2^48 elements at most, "
        "found {}",
        where, Printable(name, 200), JsonExcerpt(json));
  }
  return SafetensorsWriter::Entry{name, *dtype, *shape};
}

const SafetensorsWriter::Entry* Find(const Shard& shard, std::string_view name) {
  const auto at = std::ranges::lower_bound(
      shard.tensors, name, std::less<std::string_view>(),
      [](const SafetensorsWriter::Entry& entry) { return std::string_view(entry.name); });
  return at == shard.tensors.end() || at->name != name ? nullptr : &*at;
}

}  // namespace

absl::StatusOr<Shard> ParseShard(std::string_view text, std::string_view where) {
  Json json;
  RETURN_IF_ERROR(ParseStrictJson(text, where, &json));
  if (!json.is_object()) return InvalidArgument("{}: expected an object, found {}", where, JsonExcerpt(json));
  ASSIGN_OR_RETURN(const std::string format, TextAt(json, "format", where));
  if (format != kFormat) {
    return InvalidArgument(
        "{}: 'format': expected \"{}\", found \"{}\". Make the shards again with this shoal.", where, kFormat,
        Printable(format, 40));
  }
  Shard shard;
  ASSIGN_OR_RETURN(shard.id, TextAt(json, "id", where));
  ASSIGN_OR_RETURN(shard.node, TextAt(json, "node", where));
  ASSIGN_OR_RETURN(shard.holds, TextAt(json, "holds", where));
  ASSIGN_OR_RETURN(const Json* tensors, ObjectAt(json, "tensors", where));
  ASSIGN_OR_RETURN(const Json* stacks, ObjectAt(json, "stacks", where));
  for (const auto& [name, value] : tensors->items()) {
    ASSIGN_OR_RETURN(SafetensorsWriter::Entry entry, ReadEntry(name, value, where));
    shard.tensors.push_back(std::move(entry));
  }
  std::ranges::sort(shard.tensors, {}, &SafetensorsWriter::Entry::name);
  for (const auto& [name, value] : stacks->items()) {
    const SafetensorsWriter::Entry* of = Find(shard, name);
    const auto held = Numbers(value);
    const auto not_ascending = [](int64_t a, int64_t b) { return a >= b; };
    if (of == nullptr || of->shape.empty() || !held || held->empty() || held->back() >= of->shape[0] ||
        std::ranges::adjacent_find(*held, not_ascending) != held->end()) {
      return InvalidArgument(
          "{}: stack '{}': expected ascending indices of {}, found {}", where, Printable(name, 200),
          of == nullptr ? "a tensor of the table" : DescribeTensor(of->dtype, of->shape), JsonExcerpt(value));
    }
    shard.stacks[name] = *held;
  }
  return shard;
}

std::string ShardText(const Shard& shard) {
  Json json = {{"format", kFormat}, {"id", shard.id}, {"node", shard.node}, {"holds", shard.holds}};
  json["tensors"] = Json::object();
  json["stacks"] = Json::object();
  for (const SafetensorsWriter::Entry& entry : shard.tensors) {
    json["tensors"][entry.name] = {SafetensorsName(entry.dtype), entry.shape};
  }
  for (const auto& [name, held] : shard.stacks) json["stacks"][name] = held;
  return json.dump();
}

absl::Status CompleteTable(const Shard& shard, const std::string& folder, std::vector<TensorInfo>* tensors) {
  std::map<std::string_view, size_t> there;
  for (size_t i = 0; i < tensors->size(); ++i) {
    TensorInfo& tensor = (*tensors)[i];
    there[tensor.name] = i;
    const SafetensorsWriter::Entry* expected = Find(shard, tensor.name);
    const auto stack = shard.stacks.find(tensor.name);
    if (stack != shard.stacks.end() && !tensor.shape.empty() &&
        tensor.shape[0] == std::ssize(stack->second)) {
      tensor.held = stack->second;
      tensor.shape[0] = expected->shape[0];  // A stack has an entry: ParseShard.
    }
    const bool whole_stack = stack != shard.stacks.end() && tensor.held.empty();
    if (expected == nullptr || tensor.dtype != expected->dtype || tensor.shape != expected->shape ||
        whole_stack) {
      return InvalidArgument(
          "checkpoint: tensor '{}' in {}: {} says {}, found {}. The files are not of one shard: make it "
          "again with "
          "shoal convert --shard-for",
          Printable(tensor.name, 200), folder, shard.file,
          expected == nullptr ? "none"
          : whole_stack       ? fmt::format("{} matrices of it", stack->second.size())
                              : DescribeTensor(expected->dtype, expected->shape),
          DescribeTensor(tensor));
    }
  }
  std::vector<TensorInfo> absent;
  for (const SafetensorsWriter::Entry& entry : shard.tensors) {
    if (there.contains(entry.name)) continue;
    absent.push_back({.name = entry.name, .dtype = entry.dtype, .shape = entry.shape, .file = -1});
  }
  std::ranges::move(absent, std::back_inserter(*tensors));
  std::ranges::sort(*tensors, {}, &TensorInfo::name);
  return absl::OkStatus();
}

}  // namespace shoal
