#include "api/field_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "sched/request.h"

namespace shoal {

bool FieldReader::IsEmpty(const Json& value) {
  return value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty()) ||
         (value.is_structured() && value.empty());
}

const Json* FieldReader::find(std::string_view name) {
  known_.emplace_back(name);
  if (!ok()) return nullptr;
  const auto it = object_.find(known_.back());
  if (it == object_.end() || it->is_null()) return nullptr;
  return &*it;
}

bool FieldReader::present(std::string_view name) const { return object_.contains(std::string(name)); }

const Json* FieldReader::find_object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  fail_type(name, "an object", *value);
  return nullptr;
}

const Json* FieldReader::find_array(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_array()) return value;
  fail_type(name, "an array", *value);
  return nullptr;
}

std::optional<bool> FieldReader::boolean(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  fail_type(name, "a boolean", *value);
  return std::nullopt;
}

std::optional<int64_t> FieldReader::integer(std::string_view name, int64_t min, int64_t max) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer()) {
    fail_type(name, "an integer", *value);
    return std::nullopt;
  }
  const bool huge = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = huge ? INT64_MAX : value->get<int64_t>();
  if (!huge && number >= min && number <= max) return number;
  fail(name, fmt::format("'{}' must be from {} to {}, got {}", path_of(name), min, max, value->dump()),
       "invalid_value");
  return std::nullopt;
}

std::optional<double> FieldReader::number(std::string_view name, NumberRange range) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    fail_type(name, "a number", *value);
    return std::nullopt;
  }
  const auto number = value->get<double>();
  const bool low_ok = range.above_min ? number > range.min : number >= range.min;
  if (low_ok && number <= range.max) return number;
  fail(name,
       fmt::format("'{}' must be {} {} and at most {}, got {}", path_of(name),
                   range.above_min ? "above" : "at least", range.min, range.max, value->dump()),
       "invalid_value");
  return std::nullopt;
}

std::optional<std::string> FieldReader::text(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  fail_type(name, "a string", *value);
  return std::nullopt;
}

std::string FieldReader::required_text(std::string_view name) {
  auto value = text(name);
  if (!value.has_value())
    fail(name, fmt::format("'{}' is missing: expected a string", path_of(name)), "missing_parameter");
  return std::move(value).value_or("");
}

void FieldReader::only(std::string_view name, std::initializer_list<Json> values) {
  const Json* value = find(name);
  if (value == nullptr || IsEmpty(*value) || std::ranges::find(values, *value) != values.end()) return;
  std::vector<std::string> names = {"null"};
  for (const Json& one : values) names.push_back(one.dump());
  fail(name,
       fmt::format("'{}' is not supported yet; only {} can be honoured, got {}", path_of(name),
                   Join(names, ", "), JsonExcerpt(*value)),
       "unsupported_parameter");
}

void FieldReader::refuse_others() {
  for (const auto& [name, value] : object_.items()) {
    if (!ok()) return;
    if (std::ranges::find(known_, name) != known_.end() || IsEmpty(value)) continue;
    std::string message = fmt::format("Unknown parameter: '{}'.", path_of(name));
    const std::string near = name.size() <= 64 ? NearestWord(name, known_) : "";
    if (!near.empty()) message += fmt::format(" Did you mean '{}'?", near);
    fail(name, std::move(message), "unknown_parameter");
  }
}

void FieldReader::fail(std::string_view name, std::string message, std::string code) {
  if (ok()) error_ = ApiError{.message = std::move(message), .param = path_of(name), .code = std::move(code)};
}

void FieldReader::fail_type(std::string_view name, std::string_view expected, const Json& got) {
  fail(name,
       fmt::format("'{}' must be {}, got {} ({})", path_of(name), expected, JsonTypeName(got),
                   JsonExcerpt(got)),
       "invalid_type");
}

ApiError WrongType(const std::string& where, std::string_view expected, const Json& got) {
  return {.message = fmt::format("'{}' must be {}, got {}", where, expected, JsonTypeName(got)),
          .param = where,
          .code = "invalid_type"};
}

void EachObject(const Json& list, const std::string& where, std::optional<ApiError>& error,
                absl::FunctionRef<void(FieldReader& object)> read) {
  for (size_t i = 0; i < list.size() && !error.has_value(); ++i) {
    const std::string path = fmt::format("{}[{}]", where, i);
    if (!list[i].is_object()) {
      error = WrongType(path, "an object", list[i]);
      return;
    }
    FieldReader object(list[i], path + ".", error);
    read(object);
  }
}

std::optional<int> ReadPriority(FieldReader& fields) {
  const auto priority = fields.integer("priority", kPriorityMin, kPriorityMax);
  if (!priority.has_value()) return std::nullopt;
  return static_cast<int>(*priority);
}

}  // namespace shoal
