#include "plan/config_value.h"

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace shoal {

const ConfigValue* ConfigValue::find(std::string_view key) const {
  const auto at = std::find(keys.begin(), keys.end(), key);
  return at == keys.end() ? nullptr : &items[static_cast<size_t>(at - keys.begin())];
}

std::string ConfigValue::describe() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kBool:
      return boolean ? "true" : "false";
    case Kind::kInteger:
      return fmt::format("the number {}", integer);
    case Kind::kNumber:
      return fmt::format("the number {}", number);
    case Kind::kString:
      return fmt::format("the text '{}'", text.size() <= 80 ? text : text.substr(0, 77) + "...");
    case Kind::kList:
      return fmt::format("a list of {}", items.size());
    case Kind::kMap:
      return "a map";
  }
  return "an unknown kind";
}

absl::Status ConfigCursor::error(std::string_view text) const {
  const std::string where = path_.empty() ? "the file" : path_;
  if (value_->line == 0) return InvalidArgument("{}: {}", where, text);
  return InvalidArgument("{} (line {}): {}", where, value_->line, text);
}

absl::Status ConfigCursor::expected(std::string_view what) const {
  return error(fmt::format("expected {}, got {}", what, value_->describe()));
}

ConfigCursor ConfigCursor::entry(size_t i) const {
  const std::string& key = value_->keys[i];
  return ConfigCursor(value_->items[i], path_.empty() ? key : fmt::format("{}.{}", path_, key), key);
}

absl::Status ConfigCursor::expect_keys(std::initializer_list<std::string_view> known) const {
  if (value_->kind != ConfigValue::Kind::kMap) return expected("a map");
  for (size_t i = 0; i < value_->keys.size(); ++i) {
    const std::string& key = value_->keys[i];
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::vector<std::string> words(known.begin(), known.end());
    const std::string near = NearestWord(key, words);
    return entry(i).error(near.empty() ? fmt::format("unknown key; known here: {}", Join(words, ", "))
                                       : fmt::format("unknown key; did you mean {}?", near));
  }
  return absl::OkStatus();
}

bool ConfigCursor::has(std::string_view key) const {
  const ConfigValue* value = value_->find(key);
  return value != nullptr && value->kind != ConfigValue::Kind::kNull;
}

absl::StatusOr<ConfigCursor> ConfigCursor::at(std::string_view key) const {
  const auto found = std::find(value_->keys.begin(), value_->keys.end(), key);
  if (found == value_->keys.end()) return error(fmt::format("the key {} is missing", key));
  return entry(static_cast<size_t>(found - value_->keys.begin()));
}

absl::StatusOr<std::vector<ConfigCursor>> ConfigCursor::list() const {
  if (value_->kind != ConfigValue::Kind::kList) return expected("a list");
  std::vector<ConfigCursor> cursors;
  for (size_t i = 0; i < value_->items.size(); ++i) {
    cursors.push_back(ConfigCursor(value_->items[i], fmt::format("{}[{}]", path_, i), ""));
  }
  return cursors;
}

absl::StatusOr<std::vector<ConfigCursor>> ConfigCursor::entries() const {
  if (value_->kind != ConfigValue::Kind::kMap) return expected("a map");
  std::vector<ConfigCursor> cursors;
  for (size_t i = 0; i < value_->items.size(); ++i) cursors.push_back(entry(i));
  return cursors;
}

absl::StatusOr<std::string> ConfigCursor::text() const {
  if (value_->kind == ConfigValue::Kind::kString) return value_->text;
  const bool scalar = value_->kind != ConfigValue::Kind::kList && value_->kind != ConfigValue::Kind::kMap &&
                      value_->kind != ConfigValue::Kind::kNull;
  return expected(scalar ? "a text (put it in quotes)" : "a text");
}

absl::StatusOr<bool> ConfigCursor::boolean() const {
  if (value_->kind != ConfigValue::Kind::kBool) return expected("true or false");
  return value_->boolean;
}

absl::StatusOr<int64_t> ConfigCursor::integer(int64_t low, int64_t high) const {
  if (value_->kind != ConfigValue::Kind::kInteger || value_->integer < low || value_->integer > high) {
    return expected(fmt::format("a whole number from {} to {}", low, high));
  }
  return value_->integer;
}

absl::StatusOr<double> ConfigCursor::number(double low, double high) const {
  const bool is_number =
      value_->kind == ConfigValue::Kind::kInteger || value_->kind == ConfigValue::Kind::kNumber;
  if (!is_number || !(value_->number >= low && value_->number <= high)) {
    return expected(fmt::format("a number from {} to {}", low, high));
  }
  return value_->number;
}

}  // namespace shoal
