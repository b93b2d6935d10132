// One tree for the JSON and YAML files that people write, with the line where YAML has one, and readers whose
// errors say where. Private to plan/.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal {

struct ConfigValue {
  enum class Kind : uint8_t { kNull, kBool, kInteger, kNumber, kString, kList, kMap };

  Kind kind = Kind::kNull;
  int line = 0;  ///< 1-based; 0 = unknown (JSON).
  bool boolean = false;
  int64_t integer = 0;             ///< kInteger.
  double number = 0;               ///< kInteger and kNumber.
  std::string text;                ///< kString.
  std::vector<std::string> keys;   ///< kMap: keys[i] leads to items[i]; distinct.
  std::vector<ConfigValue> items;  ///< kList and kMap.

  /// The value under `key`, or nullptr.
  const ConfigValue* find(std::string_view key) const;
  /// "a list", "the number 3", "the text 'x'".
  std::string describe() const;
};

/// What a text may be at most, so that no file can take the process down.
struct ConfigLimits {
  int64_t bytes = 1 << 20;
  int64_t values = 1 << 16;
  int depth = 16;
};

/// InvalidArgument with line (and column) of what is wrong: syntax, a key twice in one map, a limit, and in
/// YAML anchors, aliases, tags and more than one document.
absl::StatusOr<ConfigValue> ParseJsonConfig(std::string_view text, const ConfigLimits& limits);
absl::StatusOr<ConfigValue> ParseYamlConfig(std::string_view text, const ConfigLimits& limits);

/// A value and the way to it: "devices[1].capabilities". Does not own the value.
class ConfigCursor {
 public:
  explicit ConfigCursor(const ConfigValue& root) : value_(&root) {}

  /// InvalidArgument "devices[1].port (line 7): expected ..., got ...".
  absl::Status error(std::string_view text) const;
  absl::Status expected(std::string_view what) const;

  /// Is a map that has no other keys than these.
  absl::Status expect_keys(std::initializer_list<std::string_view> known) const;
  /// The key is there, and not null.
  bool has(std::string_view key) const;
  /// The value of a required key. Call expect_keys first.
  absl::StatusOr<ConfigCursor> at(std::string_view key) const;

  absl::StatusOr<std::vector<ConfigCursor>> list() const;
  absl::StatusOr<std::vector<ConfigCursor>> entries() const;
  absl::StatusOr<std::string> text() const;
  absl::StatusOr<bool> boolean() const;
  absl::StatusOr<int64_t> integer(int64_t low, int64_t high) const;
  /// A number in [low, high], whole or not.
  absl::StatusOr<double> number(double low, double high) const;
  /// The last step of the way: the key of an entry.
  const std::string& key() const { return key_; }
  bool is(ConfigValue::Kind kind) const { return value_->kind == kind; }

 private:
  ConfigCursor(const ConfigValue& value, std::string path, std::string key)
      : value_(&value), path_(std::move(path)), key_(std::move(key)) {}
  ConfigCursor entry(size_t i) const;

  const ConfigValue* value_;
  std::string path_;
  std::string key_;
};

}  // namespace shoal
