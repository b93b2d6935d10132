// A tree of values for JSON and YAML files that people write, with line numbers for YAML, and a cursor whose
// errors name the place. Private to plan/.
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
  int line = 0;                    ///< 1-based; 0: unknown (JSON).
  bool boolean = false;            ///< kBool.
  int64_t integer = 0;             ///< kInteger.
  double number = 0;               ///< kInteger and kNumber.
  std::string text;                ///< kString.
  std::vector<std::string> keys;   ///< kMap: the key of items[i]; distinct.
  std::vector<ConfigValue> items;  ///< kList and kMap.

  /// The value under `key`, or nullptr.
  const ConfigValue* find(std::string_view key) const;
  /// For error texts: "a list of 2", "the number 3", "the text 'x'".
  std::string describe() const;
};

/// Limits of a text, so that no file can exhaust the process.
struct ConfigLimits {
  int64_t bytes = 1 << 20;
  int64_t values = 1 << 16;
  int depth = 16;
};

/// Returns InvalidArgument, with line and column if known, for wrong syntax, a key that appears twice in a
/// map, an exceeded limit, and in YAML for anchors, aliases, tags and a second document.
absl::StatusOr<ConfigValue> ParseJsonConfig(std::string_view text, const ConfigLimits& limits);
absl::StatusOr<ConfigValue> ParseYamlConfig(std::string_view text, const ConfigLimits& limits);

/// A value and its path in the file: "devices[1].capabilities". Does not own the value.
class ConfigCursor {
 public:
  explicit ConfigCursor(const ConfigValue& root) : value_(&root) {}

  /// InvalidArgument "devices[1].port (line 7): expected ..., got ...".
  absl::Status error(std::string_view text) const;
  absl::Status expected(std::string_view what) const;

  /// Returns an error if the value is not a map or has a key that is not among `known`.
  absl::Status expect_keys(std::initializer_list<std::string_view> known) const;
  /// Whether the key is present and not null.
  bool has(std::string_view key) const;
  /// The value of a required key. Call expect_keys first.
  absl::StatusOr<ConfigCursor> at(std::string_view key) const;

  absl::StatusOr<std::vector<ConfigCursor>> list() const;
  absl::StatusOr<std::vector<ConfigCursor>> entries() const;
  absl::StatusOr<std::string> text() const;
  absl::StatusOr<bool> boolean() const;
  absl::StatusOr<int64_t> integer(int64_t low, int64_t high) const;
  /// A whole or fractional number in [low, high].
  absl::StatusOr<double> number(double low, double high) const;
  /// The last key of the path, for an entry of a map.
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
