#include "formats/config.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/text.h"
#include "formats/mapped_file.h"
#include "formats/strict_json.h"

namespace shoal {

struct ModelConfig::Node {
  std::shared_ptr<const nlohmann::json> root;  ///< Owns what `value` points into.
  const nlohmann::json* value = nullptr;

  /// The value of `key`; nullptr where absent or null.
  const nlohmann::json* find(std::string_view key) const {
    const auto found = value->find(std::string(key));
    return found == value->end() || found->is_null() ? nullptr : &*found;
  }
};

namespace {

using Json = nlohmann::json;

/// Parsed it takes several times as much; one with quantization settings for every tensor has some MB.
constexpr size_t kConfigBytesMax = 16 << 20;

absl::StatusOr<int64_t> IntFrom(const Json& value, const std::string& where, Bounds<int64_t> bounds) {
  const bool fits =
      value.is_number_integer() &&
      !(value.is_number_unsigned() && value.get<uint64_t>() > std::numeric_limits<int64_t>::max());
  if (!fits || value.get<int64_t>() < bounds.min || value.get<int64_t>() > bounds.max) {
    return InvalidArgument("{}: expected an integer from {} to {}, found {}", where, bounds.min, bounds.max,
                           JsonExcerpt(value));
  }
  return value.get<int64_t>();
}

absl::StatusOr<double> NumberFrom(const Json& value, const std::string& where, Bounds<double> bounds) {
  const bool in_bounds =
      value.is_number() && value.get<double>() >= bounds.min && value.get<double>() <= bounds.max;
  if (!in_bounds) {  // NaN compares false and ends here too.
    return InvalidArgument("{}: expected a number from {} to {}, found {}", where, bounds.min, bounds.max,
                           JsonExcerpt(value));
  }
  return value.get<double>();
}

/// The elements of a list, each as `read` gives it; empty where there is no value.
template <class T>
absl::StatusOr<std::vector<T>> ListFrom(const Json* value, const std::string& where, std::string_view of,
                                        absl::FunctionRef<absl::StatusOr<T>(const Json&)> read) {
  std::vector<T> result;
  if (value == nullptr) return result;
  if (!value->is_array()) {
    return InvalidArgument("{}: expected a list of {}, found {}", where, of, JsonExcerpt(*value));
  }
  for (const Json& element : *value) {
    ASSIGN_OR_RETURN(T read_element, read(element));
    result.push_back(std::move(read_element));
  }
  return result;
}

/// required_* from optional_*.
template <class T>
absl::StatusOr<T> Required(absl::StatusOr<std::optional<T>> value, const ModelConfig& config,
                           std::string_view key) {
  if (!value.ok()) return value.status();
  if (value->has_value()) return std::move(**value);
  const std::string nearest = NearestWord(key, config.keys());
  return InvalidArgument(
      "{}: expected this key, found nothing{}", config.where(key),
      nearest.empty() || nearest == key ? "" : fmt::format(" (nearest key: '{}')", nearest));
}

}  // namespace

namespace {

/// What Python's json writes beside JSON: Infinity becomes the largest number, NaN null, as if the key were absent. Words
/// inside strings stay.
std::string WithoutPythonNumbers(std::string_view text) {
  constexpr std::pair<std::string_view, std::string_view> kWords[] = {{"Infinity", "1.7976931348623157e308"},
                                                                      {"NaN", "null"}};
  std::string result;
  bool quoted = false;
  for (size_t i = 0; i < text.size();) {
    const auto* word = quoted ? std::end(kWords) : std::ranges::find_if(kWords, [&](const auto& known) {
      return text.substr(i).starts_with(known.first);
    });
    if (word != std::end(kWords)) {
      result += word->second;
      i += word->first.size();
      continue;
    }
    if (quoted && text[i] == '\\' && i + 1 < text.size())
      result += text[i++];
    else if (text[i] == '"')
      quoted = !quoted;
    result += text[i++];
  }
  return result;
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::Parse(std::string_view text, std::string file) {
  if (text.size() > kConfigBytesMax) {
    return InvalidArgument("{}: expected at most {} bytes, found {}", file, kConfigBytesMax, text.size());
  }
  auto root = std::make_shared<Json>();
  if (text.find("Infinity") == std::string_view::npos && text.find("NaN") == std::string_view::npos) {
    RETURN_IF_ERROR(ParseStrictJson(text, file, root.get()));
  } else {
    RETURN_IF_ERROR(ParseStrictJson(WithoutPythonNumbers(text), file, root.get()));
  }
  if (!root->is_object())
    return InvalidArgument("{}: expected a JSON object, found {}", file, JsonExcerpt(*root));
  const Json* value = root.get();
  return ModelConfig(std::make_shared<Node>(Node{std::move(root), value}), std::move(file), "");
}

absl::StatusOr<ModelConfig> ModelConfig::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const auto bytes = file.bytes();
  return Parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

bool ModelConfig::has(std::string_view key) const { return node_->find(key) != nullptr; }

std::vector<std::string> ModelConfig::keys() const {
  std::vector<std::string> result;
  for (const auto& item : node_->value->items()) result.push_back(item.key());
  return result;
}

ModelConfig ModelConfig::with_defaults(std::string_view defaults) const {
  auto merged = std::make_shared<Json>(Json::parse(defaults));
  for (const auto& item : node_->value->items()) {
    if (!item.value().is_null()) (*merged)[item.key()] = item.value();
  }
  const Json* value = merged.get();
  return ModelConfig(std::make_shared<Node>(Node{std::move(merged), value}), file_, path_);
}

std::string ModelConfig::where(std::string_view key) const {
  return fmt::format("{}: '{}{}'", file_, path_, Printable(key, 200));
}

std::string ModelConfig::excerpt(std::string_view key) const {
  const Json* value = node_->find(key);
  return value == nullptr ? "nothing" : JsonExcerpt(*value);
}

std::string ModelConfig::canonical() const { return node_->value->dump(); }

absl::StatusOr<std::optional<int64_t>> ModelConfig::optional_int(std::string_view key,
                                                                 Bounds<int64_t> bounds) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::optional<int64_t>();
  ASSIGN_OR_RETURN(const int64_t number, IntFrom(*value, where(key), bounds));
  return std::optional<int64_t>(number);
}

absl::StatusOr<std::optional<double>> ModelConfig::optional_number(std::string_view key,
                                                                   Bounds<double> bounds) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::optional<double>();
  ASSIGN_OR_RETURN(const double number, NumberFrom(*value, where(key), bounds));
  return std::optional<double>(number);
}

absl::StatusOr<std::optional<bool>> ModelConfig::optional_bool(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::optional<bool>();
  if (!value->is_boolean()) {
    return InvalidArgument("{}: expected true or false, found {}", where(key), JsonExcerpt(*value));
  }
  return std::optional<bool>(value->get<bool>());
}

absl::StatusOr<std::optional<std::string>> ModelConfig::optional_string(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string())
    return InvalidArgument("{}: expected a string, found {}", where(key), JsonExcerpt(*value));
  return std::optional<std::string>(value->get<std::string>());
}

absl::StatusOr<std::optional<ModelConfig>> ModelConfig::optional_object(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::optional<ModelConfig>();
  if (!value->is_object())
    return InvalidArgument("{}: expected an object, found {}", where(key), JsonExcerpt(*value));
  return std::optional<ModelConfig>(
      ModelConfig(std::make_shared<Node>(Node{node_->root, value}), file_, fmt::format("{}{}.", path_, key)));
}

absl::StatusOr<int64_t> ModelConfig::required_int(std::string_view key, Bounds<int64_t> bounds) const {
  return Required(optional_int(key, bounds), *this, key);
}
absl::StatusOr<double> ModelConfig::required_number(std::string_view key, Bounds<double> bounds) const {
  return Required(optional_number(key, bounds), *this, key);
}
absl::StatusOr<bool> ModelConfig::required_bool(std::string_view key) const {
  return Required(optional_bool(key), *this, key);
}
absl::StatusOr<std::string> ModelConfig::required_string(std::string_view key) const {
  return Required(optional_string(key), *this, key);
}
absl::StatusOr<ModelConfig> ModelConfig::required_object(std::string_view key) const {
  return Required(optional_object(key), *this, key);
}

absl::StatusOr<std::vector<int64_t>> ModelConfig::int_list(std::string_view key,
                                                           Bounds<int64_t> bounds) const {
  std::vector<int64_t> result;
  const Json* value = node_->find(key);
  if (value == nullptr) return result;
  if (!value->is_array()) {
    ASSIGN_OR_RETURN(const int64_t only, IntFrom(*value, where(key), bounds));
    result.push_back(only);
    return result;
  }
  for (const Json& element : *value) {
    ASSIGN_OR_RETURN(const int64_t number, IntFrom(element, where(key), bounds));
    result.push_back(number);
  }
  return result;
}

absl::StatusOr<std::vector<double>> ModelConfig::number_list(std::string_view key,
                                                             Bounds<double> bounds) const {
  return ListFrom<double>(node_->find(key), where(key), "numbers",
                          [&](const Json& element) { return NumberFrom(element, where(key), bounds); });
}

absl::StatusOr<std::vector<std::string>> ModelConfig::string_list(std::string_view key) const {
  return ListFrom<std::string>(
      node_->find(key), where(key), "strings", [&](const Json& element) -> absl::StatusOr<std::string> {
        if (element.is_string()) return element.get<std::string>();
        return InvalidArgument("{}: expected a list of strings, found {}", where(key), JsonExcerpt(element));
      });
}

absl::StatusOr<GenerationConfig> ParseGenerationConfig(const ModelConfig& config) {
  static constexpr Bounds<double> kProbability{0.0, 1.0};
  GenerationConfig result;
  ASSIGN_OR_RETURN(result.eos_token_ids, config.int_list("eos_token_id"));
  ASSIGN_OR_RETURN(result.bos_token_id, config.optional_int("bos_token_id", kAnyCount));
  ASSIGN_OR_RETURN(result.pad_token_id, config.optional_int("pad_token_id", kAnyCount));
  ASSIGN_OR_RETURN(result.do_sample, config.optional_bool("do_sample"));
  ASSIGN_OR_RETURN(result.temperature, config.optional_number("temperature", {0.0, 100.0}));
  ASSIGN_OR_RETURN(result.top_p, config.optional_number("top_p", kProbability));
  ASSIGN_OR_RETURN(result.min_p, config.optional_number("min_p", kProbability));
  ASSIGN_OR_RETURN(result.top_k, config.optional_int("top_k", kAnyCount));
  ASSIGN_OR_RETURN(result.repetition_penalty, config.optional_number("repetition_penalty", {0.01, 100.0}));
  return result;
}

}  // namespace shoal
