#include "base/json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal {
namespace {

/// `text` on one line, cut to at most `bytes_max` bytes at a boundary of characters.
std::string OneLine(std::string_view text, size_t bytes_max) {
  size_t end = std::min(text.size(), bytes_max);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  std::string line(text.substr(0, end));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return end < text.size() ? line + "..." : line;
}

/// Builds the value from the parser's events, so that limits and repeated keys are checked while parsing.
template <typename Json>
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(const JsonLimits& limits, Json* root) : limits_(limits), root_(root) {}

  const std::string& problem() const { return problem_; }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(typename Json::number_integer_t value) override { return add(value); }
  bool number_unsigned(typename Json::number_unsigned_t value) override { return add(value); }
  bool number_float(typename Json::number_float_t value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(typename Json::binary_t&) override { return refuse("binary data"); }  // Does not occur in JSON.
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& key) override {
    auto& object = open_.back()->template get_ref<typename Json::object_t&>();
    if (limits_.keys_max > 0 && std::ssize(object) >= limits_.keys_max) {
      return refuse(fmt::format("an object has more than {} keys", limits_.keys_max));
    }
    const auto [at, added] = object.emplace(key, nullptr);
    if (!added) return refuse(fmt::format("the key '{}' appears twice in one object", OneLine(key, 200)));
    slot_ = &at->second;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const std::string_view text = error.what();
    const size_t end = text.find("] ");
    const std::string_view reason = end == std::string_view::npos ? text : text.substr(end + 2);
    return refuse("not valid JSON: " + OneLine(reason, 300));
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      *root_ = std::move(value);
      return root_;
    }
    if (!open_.back()->is_array()) {
      *slot_ = std::move(value);
      return slot_;
    }
    open_.back()->push_back(std::move(value));
    return &open_.back()->back();
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (std::ssize(open_) >= limits_.depth_max)
      return refuse(fmt::format("nested more than {} deep", limits_.depth_max));
    // The pointer stays valid: while a value is open, nothing is added to the values around it.
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  bool refuse(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  const JsonLimits limits_;
  Json* const root_;
  std::vector<Json*> open_;
  Json* slot_ = nullptr;  // The place for the value of the last key.
  std::string problem_;
};

template <typename Json>
absl::Status Read(std::string_view text, const JsonLimits& limits, Json* value) {
  Builder<Json> builder(limits, value);
  if (Json::sax_parse(text.begin(), text.end(), &builder)) return absl::OkStatus();
  return InvalidArgument("{}", builder.problem());
}

template <typename Json>
const Json& Member(const Json& value, std::string_view key) {
  static const Json kNone;
  if (!value.is_object()) return kNone;
  const auto found = value.find(std::string(key));
  return found == value.end() ? kNone : *found;
}

template <typename Json>
const Json& First(const Json& value, std::string_view key) {
  static const Json kNone;
  const Json& list = Member(value, key);
  return list.is_array() && !list.empty() ? list.front() : kNone;
}

template <typename Json>
std::string Text(const Json& value, std::string_view key) {
  const Json& found = Member(value, key);
  return found.is_string() ? found.template get<std::string>() : std::string();
}

}  // namespace

absl::Status ReadJson(std::string_view text, const JsonLimits& limits, nlohmann::json* value) {
  return Read(text, limits, value);
}
absl::Status ReadJson(std::string_view text, const JsonLimits& limits, nlohmann::ordered_json* value) {
  return Read(text, limits, value);
}

const nlohmann::json& MemberOf(const nlohmann::json& value, std::string_view key) {
  return Member(value, key);
}
const nlohmann::ordered_json& MemberOf(const nlohmann::ordered_json& value, std::string_view key) {
  return Member(value, key);
}
const nlohmann::json& FirstOf(const nlohmann::json& value, std::string_view key) { return First(value, key); }
const nlohmann::ordered_json& FirstOf(const nlohmann::ordered_json& value, std::string_view key) {
  return First(value, key);
}
std::string TextOf(const nlohmann::json& value, std::string_view key) { return Text(value, key); }
std::string TextOf(const nlohmann::ordered_json& value, std::string_view key) { return Text(value, key); }

}  // namespace shoal
