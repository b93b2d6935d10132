// Reads a JSON object field by field, and remembers the first thing wrong with it. What nobody asked for is
// refused: no field of a request is ever ignored silently.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "api/json.h"

namespace shoal {

/// Inclusive unless `above_min`.
struct NumberRange {
  double min;
  double max;
  bool above_min = false;  ///< min itself is not allowed.
};

class FieldReader {
 public:
  /// `path` goes before the names in messages: "" or "messages[0].". `error` keeps the first error; once it
  /// is set, nothing more is checked. All must outlive the reader.
  FieldReader(const Json& object, std::string path, std::optional<ApiError>& error)
      : object_(object), path_(std::move(path)), error_(error) {}

  /// The value, or nullptr where it is absent or null. Like all below, marks the name as known.
  const Json* find(std::string_view name);
  /// Whether it is there, be it null.
  bool present(std::string_view name) const;
  const Json* find_object(std::string_view name);
  const Json* find_array(std::string_view name);

  std::optional<bool> boolean(std::string_view name);
  std::optional<int64_t> integer(std::string_view name, int64_t min, int64_t max);
  std::optional<double> number(std::string_view name, NumberRange range);
  std::optional<std::string> text(std::string_view name);
  /// A text that must be there.
  std::string required_text(std::string_view name);

  /// A field that cannot change the answer, whatever its value: accepted.
  void harmless(std::string_view name) { known_.emplace_back(name); }

  /// A documented field of which only these values can be honoured (null and empty ones always can): anything
  /// else is refused.
  void only(std::string_view name, std::initializer_list<Json> values);

  /// Refuses the fields that were never asked for, but for those that are null or empty.
  void refuse_others();

  void fail(std::string_view name, std::string message, std::string code = "");
  void fail_type(std::string_view name, std::string_view expected, const Json& got);
  std::string path_of(std::string_view name) const { return path_ + std::string(name); }
  /// null, "", [], {}: says nothing.
  static bool IsEmpty(const Json& value);
  bool ok() const { return !error_.has_value(); }

 private:
  const Json& object_;
  const std::string path_;
  std::optional<ApiError>& error_;
  std::vector<std::string> known_;
};

/// What stands at the path `where` has the wrong type.
ApiError WrongType(const std::string& where, std::string_view expected, const Json& got);

/// Calls `read` with each object of the array `list`, which stands at the path `where`, until something is wrong.
void EachObject(const Json& list, const std::string& where, std::optional<ApiError>& error,
                absl::FunctionRef<void(FieldReader& object)> read);

/// A request's own `priority`, which is one field in every dialect.
std::optional<int> ReadPriority(FieldReader& fields);

}  // namespace shoal
