// Builds a ConfigValue from the events of a JSON or YAML parser, within limits. Private to plan/.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "base/text.h"
#include "plan/config_value.h"

namespace shoal {

inline absl::Status CheckConfigSize(std::string_view text, const ConfigLimits& limits) {
  if (static_cast<int64_t>(text.size()) <= limits.bytes) return absl::OkStatus();
  return InvalidArgument("expected at most {} of text, got {}", FormatBytes(limits.bytes),
                         FormatBytes(static_cast<int64_t>(text.size())));
}

/// The most keys of a map. Bounds the linear search for repeated keys.
inline constexpr int kConfigKeysMax = 4096;

/// Every call returns false after the first error, which status() holds. Lines are 1-based; 0 is unknown.
class ConfigTree {
 public:
  explicit ConfigTree(const ConfigLimits& limits) : limits_(limits) {}

  bool add_null(int line) { return add({.line = line}); }
  bool add_bool(bool value, int line) {
    return add({.kind = ConfigValue::Kind::kBool, .line = line, .boolean = value});
  }
  bool add_integer(int64_t value, int line) {
    return add({.kind = ConfigValue::Kind::kInteger,
                .line = line,
                .integer = value,
                .number = static_cast<double>(value)});
  }
  bool add_number(double value, int line) {
    return add({.kind = ConfigValue::Kind::kNumber, .line = line, .number = value});
  }
  bool add_string(std::string value, int line) {
    return add({.kind = ConfigValue::Kind::kString, .line = line, .text = std::move(value)});
  }
  bool add_key(std::string key, int line) {
    ConfigValue& map = open_.back();
    if (static_cast<int>(map.keys.size()) >= kConfigKeysMax) {
      return fail(line, fmt::format("expected at most {} keys in a map, got more", kConfigKeysMax));
    }
    if (map.find(key) != nullptr) return fail(line, fmt::format("the key '{}' appears twice", key));
    map.keys.push_back(std::move(key));
    return status_.ok();
  }
  bool open(ConfigValue::Kind kind, int line) {
    if (static_cast<int>(open_.size()) >= limits_.depth) {
      return fail(line, fmt::format("nested more than {} deep", limits_.depth));
    }
    if (!count(line)) return false;
    open_.push_back({.kind = kind, .line = line});
    return status_.ok();
  }
  bool close() {
    SHOAL_CHECK(!open_.empty());
    ConfigValue value = std::move(open_.back());
    open_.pop_back();
    return attach(std::move(value));
  }

  /// Whether the next value is a key of a map.
  bool wants_key() const {
    return !open_.empty() && open_.back().kind == ConfigValue::Kind::kMap &&
           open_.back().keys.size() == open_.back().items.size();
  }
  bool fail(int line, std::string_view text) {
    if (status_.ok()) {
      status_ = line == 0 ? InvalidArgument("{}", text) : InvalidArgument("line {}: {}", line, text);
    }
    return false;
  }
  const absl::Status& status() const { return status_; }
  ConfigValue take_root() { return std::move(root_); }

 private:
  bool add(ConfigValue value) { return count(value.line) && attach(std::move(value)); }
  bool count(int line) {
    if (++values_ > limits_.values) return fail(line, fmt::format("more than {} values", limits_.values));
    return status_.ok();
  }
  bool attach(ConfigValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return status_.ok();
  }

  ConfigLimits limits_;
  ConfigValue root_;
  std::vector<ConfigValue> open_;
  int64_t values_ = 0;
  absl::Status status_;
};

}  // namespace shoal
