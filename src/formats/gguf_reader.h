// Typed reading of GGUF metadata with errors that name file, key, expected and got. Internal to formats/.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/charconv.h"
#include "base/status.h"
#include "formats/config.h"
#include "formats/gguf.h"

namespace shoal {

class GgufKeys {
 public:
  /// prefix: put before a key that begins with a dot ("llama" and ".block_count").
  GgufKeys(const GgufMetadata& metadata, std::string prefix, std::string_view file)
      : metadata_(metadata), prefix_(std::move(prefix)), file_(file) {}

  std::string full(std::string_view key) const {
    return key.starts_with('.') ? prefix_ + std::string(key) : std::string(key);
  }
  const GgufValue* find(std::string_view key) const {
    const auto found = metadata_.find(full(key));
    return found == metadata_.end() ? nullptr : &found->second;
  }
  absl::Status refuse(std::string_view key, std::string_view expected) const {
    const GgufValue* value = find(key);
    std::string got = value == nullptr ? "nothing" : value->describe();
    if (value != nullptr && value->as_number()) got = fmt::format("{}", *value->as_number());
    return InvalidArgument("checkpoint: {}: key '{}': expected {}, found {}", file_, full(key), expected,
                           got);
  }

  absl::StatusOr<std::optional<int64_t>> optional_int(std::string_view key,
                                                      Bounds<int64_t> bounds = kPositive) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::optional<int64_t>();
    const std::optional<int64_t> number = value->as_int();
    if (!number || *number < bounds.min || *number > bounds.max) {
      return refuse(key, fmt::format("an integer from {} to {}", bounds.min, bounds.max));
    }
    return number;
  }
  absl::StatusOr<int64_t> required_int(std::string_view key, Bounds<int64_t> bounds = kPositive) const {
    ASSIGN_OR_RETURN(const std::optional<int64_t> value, optional_int(key, bounds));
    return value ? absl::StatusOr<int64_t>(*value) : refuse(key, "an integer");
  }
  absl::StatusOr<std::optional<double>> optional_number(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::optional<double>();
    std::optional<double> number = value->as_number();
    // A converter rounded this number to f32. The config had the shortest decimal that rounds to it: 0.1, not
    // 0.100000001490116. Taking that decimal gives the bits of the folder that the GGUF was made from.
    if (number && value->type == GgufType::kF32 && std::isfinite(*number)) {
      const std::string shortest = fmt::format("{}", static_cast<float>(*number));
      absl::from_chars(shortest.data(), shortest.data() + shortest.size(), *number);
    }
    if (!number || !(*number >= kAnyNumber.min && *number <= kAnyNumber.max)) return refuse(key, "a number");
    return number;
  }
  absl::StatusOr<double> required_number(std::string_view key) const {
    ASSIGN_OR_RETURN(const std::optional<double> value, optional_number(key));
    return value ? absl::StatusOr<double>(*value) : refuse(key, "a number");
  }
  absl::StatusOr<std::optional<bool>> optional_bool(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::optional<bool>();
    const std::optional<bool> flag = value->as_bool();
    if (!flag) return refuse(key, "a bool");
    return flag;
  }
  absl::StatusOr<std::optional<std::string_view>> optional_string(std::string_view key) const {
    const GgufValue* value = find(key);
    if (value == nullptr) return std::optional<std::string_view>();
    const std::optional<std::string_view> text = value->as_string();
    if (!text) return refuse(key, "a string");
    return text;
  }
  absl::StatusOr<std::string_view> required_string(std::string_view key) const {
    ASSIGN_OR_RETURN(const std::optional<std::string_view> value, optional_string(key));
    return value ? absl::StatusOr<std::string_view>(*value) : refuse(key, "a string");
  }
  std::string_view file() const { return file_; }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
  std::string_view file_;
};

}  // namespace shoal
