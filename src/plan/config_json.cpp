#include <nlohmann/json.hpp>

#include "plan/config_tree.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

using Kind = ConfigValue::Kind;

/// Receives nlohmann's events, so that limits and repeated keys are seen while parsing and not after.
class JsonHandler {
 public:
  JsonHandler(std::string_view text, const ConfigLimits& limits) : text_(text), tree_(limits) {}

  bool null() { return tree_.add_null(0); }
  bool boolean(bool value) { return tree_.add_bool(value, 0); }
  bool number_integer(int64_t value) { return tree_.add_integer(value, 0); }
  bool number_unsigned(uint64_t value) {
    if (value <= static_cast<uint64_t>(INT64_MAX)) return tree_.add_integer(static_cast<int64_t>(value), 0);
    return tree_.add_number(static_cast<double>(value), 0);
  }
  bool number_float(double value, const std::string&) { return tree_.add_number(value, 0); }
  bool string(std::string& value) { return tree_.add_string(std::move(value), 0); }
  bool binary(std::vector<uint8_t>&) { return false; }  // JSON text has none.
  bool start_object(size_t) { return tree_.open(Kind::kMap, 0); }
  bool start_array(size_t) { return tree_.open(Kind::kList, 0); }
  bool key(std::string& key) { return tree_.add_key(std::move(key), 0); }
  bool end_object() { return tree_.close(); }
  bool end_array() { return tree_.close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: ..." says line and column already.
    const std::string_view what = error.what();
    const size_t bracket = what.find("] ");
    syntax_error_ = bracket == std::string_view::npos
                        ? fmt::format("parse error at byte {} of {}", position, text_.size())
                        : std::string(what.substr(bracket + 2));
    return false;
  }

  absl::StatusOr<ConfigValue> finish(bool parsed) {
    if (!tree_.status().ok()) return tree_.status();
    if (!parsed) return InvalidArgument("not JSON: {}", syntax_error_);
    return tree_.take_root();
  }

 private:
  std::string_view text_;
  ConfigTree tree_;
  std::string syntax_error_;
};

}  // namespace

absl::StatusOr<ConfigValue> ParseJsonConfig(std::string_view text, const ConfigLimits& limits) {
  RETURN_IF_ERROR(CheckConfigSize(text, limits));
  JsonHandler handler(text, limits);
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  return handler.finish(parsed);
}

}  // namespace shoal
