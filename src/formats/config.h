// config.json and generation_config.json as typed, bounded values.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// Inclusive bounds of a config value.
template <class T>
struct Bounds {
  T min;
  T max;
};
inline constexpr Bounds<int64_t> kAnyCount{0, std::numeric_limits<int32_t>::max()};
inline constexpr Bounds<int64_t> kPositive{1, std::numeric_limits<int32_t>::max()};
inline constexpr Bounds<double> kAnyNumber{-1e30, 1e30};

/// One object of a config.json: the file itself, or an object nested in it. Cheap to copy; keeps the file's
/// values alive. null counts as absent. Errors are InvalidArgument and name file, key (with its path, as
/// "rope_scaling.factor"), expected and got. A missing structural key is an error, never a default: use
/// required_* for whatever decides shapes or arithmetic.
class ModelConfig {
 public:
  /// `file` is only for messages. The text must be one JSON object (strict: no duplicate keys, bounded
  /// nesting).
  static absl::StatusOr<ModelConfig> Parse(std::string_view text, std::string file);
  static absl::StatusOr<ModelConfig> Load(const std::string& path);

  bool has(std::string_view key) const;
  std::vector<std::string> keys() const;

  absl::StatusOr<int64_t> required_int(std::string_view key, Bounds<int64_t> bounds = kPositive) const;
  absl::StatusOr<double> required_number(std::string_view key, Bounds<double> bounds = kAnyNumber) const;
  absl::StatusOr<bool> required_bool(std::string_view key) const;
  absl::StatusOr<std::string> required_string(std::string_view key) const;
  absl::StatusOr<ModelConfig> required_object(std::string_view key) const;

  absl::StatusOr<std::optional<int64_t>> optional_int(std::string_view key,
                                                      Bounds<int64_t> bounds = kPositive) const;
  absl::StatusOr<std::optional<double>> optional_number(std::string_view key,
                                                        Bounds<double> bounds = kAnyNumber) const;
  absl::StatusOr<std::optional<bool>> optional_bool(std::string_view key) const;
  absl::StatusOr<std::optional<std::string>> optional_string(std::string_view key) const;
  absl::StatusOr<std::optional<ModelConfig>> optional_object(std::string_view key) const;

  /// A list of integers, or one integer as a list of one ("eos_token_id"); absent gives an empty list.
  absl::StatusOr<std::vector<int64_t>> int_list(std::string_view key,
                                                Bounds<int64_t> bounds = kAnyCount) const;
  /// Absent gives an empty list.
  absl::StatusOr<std::vector<double>> number_list(std::string_view key,
                                                  Bounds<double> bounds = kAnyNumber) const;
  absl::StatusOr<std::vector<std::string>> string_list(std::string_view key) const;

  /// The same object where keys that are absent or null have the values of `defaults`, a JSON object of ours.
  ModelConfig with_defaults(std::string_view defaults) const;

  /// Where a key stands, for messages: "config.json: 'rope_scaling.factor'".
  std::string where(std::string_view key) const;
  /// The value under `key` as short printable JSON, "nothing" where absent: for messages.
  std::string excerpt(std::string_view key) const;
  const std::string& file() const { return file_; }
  /// The whole object as JSON with sorted keys and no spaces: equal for files that differ only in layout.
  std::string canonical() const;

 private:
  struct Node;
  ModelConfig(std::shared_ptr<const Node> node, std::string file, std::string path)
      : node_(std::move(node)), file_(std::move(file)), path_(std::move(path)) {}

  std::shared_ptr<const Node> node_;
  std::string file_;
  std::string path_;  ///< "" or "rope_scaling.".
};

/// What generation_config.json says; what it leaves out is nullopt or empty.
struct GenerationConfig {
  std::vector<int64_t> eos_token_ids;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty;
};

absl::StatusOr<GenerationConfig> ParseGenerationConfig(const ModelConfig& config);

}  // namespace shoal
