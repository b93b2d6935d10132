#include "api/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

namespace shoal {
namespace {

// Refuses what would cost too much to build: deep nesting, and objects whose keys are searched one by one.
class Bouncer : public nlohmann::json_sax<Json> {
 public:
  const std::string& reason() const { return reason_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return enter(); }
  bool start_array(size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t&) override {
    if (++keys_.back() <= kJsonKeysMax) return true;
    return refuse(fmt::format("an object has more than {} keys", kJsonKeysMax));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const std::string text = error.what();
    const size_t end = text.find("] ");
    return refuse(end == std::string::npos ? text : text.substr(end + 2));
  }

 private:
  bool enter() {
    keys_.push_back(0);
    if (keys_.size() <= static_cast<size_t>(kJsonDepthMax)) return true;
    return refuse(fmt::format("objects and arrays are nested more than {} deep", kJsonDepthMax));
  }
  bool leave() {
    keys_.pop_back();
    return true;
  }
  bool refuse(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }

  std::vector<int> keys_;  // Per open object or array.
  std::string reason_;
};

}  // namespace

ApiResult<Json> ParseJson(std::string_view text) {
  Bouncer bouncer;
  if (!Json::sax_parse(text, &bouncer)) {
    return std::unexpected(
        ApiError{.message = "the body is not valid JSON: " + bouncer.reason(), .code = "invalid_json"});
  }
  return Json::parse(text);
}

std::string DumpJson(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string_view JsonTypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    case Json::value_t::number_float:
      return "a number";
    default:
      return "something else";
  }
}

std::string JsonExcerpt(const Json& value) {
  constexpr size_t kMax = 60;
  if (value.is_structured() && value.size() > kMax)
    return fmt::format("{} of {}", JsonTypeName(value), value.size());
  std::string text = DumpJson(value);
  if (text.size() <= kMax) return text;
  size_t cut = kMax;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;  // Not within a character.
  return text.substr(0, cut) + "...";
}

}  // namespace shoal
