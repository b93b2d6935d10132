#include "api/structure/string_regex.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace shoal {
namespace {

constexpr std::string_view kAny = "(?s:.*)";

struct Format {
  std::string_view name, regex;
};
// Source: RFC 3339, RFC 4122, RFC 5321; narrower where the texts of people are.
#define SHOAL_DATE                                                                                           \
  "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?" \
  ":0"                                                                                                       \
  "[1-9]|1[0-9]|2[0-8])))"
#define SHOAL_TIME \
  "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define SHOAL_LABEL "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
#define SHOAL_OCTET "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
constexpr Format kFormats[] = {
    {"date", SHOAL_DATE},
    {"time", SHOAL_TIME},
    {"date-time", SHOAL_DATE "T" SHOAL_TIME},
    {"duration",
     "P(?:[0-9]{1,4}W|[0-9]{1,4}D|T[0-9]{1,4}H(?:[0-9]{1,2}M(?:[0-9]{1,2}S)?)?|T[0-9]{1,4}M|T[0-9]{1,4}S)"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"hostname", SHOAL_LABEL "(?:\\." SHOAL_LABEL "){0,3}"},
    {"email",
     "[a-zA-Z0-9_+-]{1,30}(?:\\.[a-zA-Z0-9_+-]{1,30}){0,3}@" SHOAL_LABEL "(?:\\." SHOAL_LABEL "){1,3}"},
    {"ipv4", SHOAL_OCTET "(?:\\." SHOAL_OCTET "){3}"},
    {"uri", "[a-z][a-z0-9+.-]{1,10}://" SHOAL_LABEL "(?:\\." SHOAL_LABEL
            "){0,3}(?::[0-9]{1,4})?(?:/[a-zA-Z0-9._~-]{0,40}){0,8}"
            "(?:\\?[a-zA-Z0-9._~&=-]{0,80})?(?:#[a-zA-Z0-9._~-]{0,40})?"},
};
#undef SHOAL_DATE
#undef SHOAL_TIME
#undef SHOAL_LABEL
#undef SHOAL_OCTET

/// Reads a pattern once: its alternatives at the top, with classes of characters as ECMA means them.
class PatternReader {
 public:
  explicit PatternReader(std::string_view pattern) : pattern_(pattern) {}

  std::optional<std::string> read() {
    begin();
    while (at_ < pattern_.size()) {
      if (!next()) return std::nullopt;
    }
    end();
    if (in_class_ || depth_ != 0) return std::nullopt;
    return "(?:" + out_ + ")";
  }

 private:
  void begin() {
    from_start_ = at_ < pattern_.size() && pattern_[at_] == '^';
    if (from_start_) ++at_;
    branch_.clear();
    to_end_ = false;
  }

  void end() {
    if (!out_.empty()) out_ += '|';
    out_ +=
        (from_start_ ? "" : std::string(kAny)) + "(?:" + branch_ + ")" + (to_end_ ? "" : std::string(kAny));
  }

  bool next() {
    const char c = pattern_[at_];
    if (c == '\\') return escape();
    ++at_;
    if (in_class_) {
      in_class_ = c != ']';
      branch_ += c == '[' ? "\\[" : std::string(1, c);
      return true;
    }
    if (c == '|' && depth_ == 0) {
      end();
      begin();
      return true;
    }
    if (c == '$' && depth_ == 0 && (at_ == pattern_.size() || pattern_[at_] == '|')) {
      to_end_ = true;
      return true;
    }
    if (c == '^' || c == '$') return false;
    if (c == '.') branch_ += "[^\\n\\r]";
    if (c != '.') branch_ += c;
    if (c == '(') return open();
    if (c == ')') return --depth_ >= 0;
    if (c == '[') {
      in_class_ = true;
      if (at_ < pattern_.size() && pattern_[at_] == '^') branch_ += pattern_[at_++];
    }
    return true;
  }

  bool open() {
    ++depth_;
    if (at_ >= pattern_.size() || pattern_[at_] != '?') return true;
    return pattern_.substr(at_).starts_with("?:");
  }

  bool escape() {
    if (at_ + 1 >= pattern_.size()) return false;
    const char c = pattern_[at_ + 1];
    at_ += 2;
    if (c == 'd') branch_ += in_class_ ? "0-9" : "[0-9]";
    if (c == 'w') branch_ += in_class_ ? "a-zA-Z0-9_" : "[a-zA-Z0-9_]";
    if (c == 'd' || c == 'w') return true;
    if (c == 'D' || c == 'W') {
      branch_ += in_class_ ? "" : c == 'D' ? "[^0-9]" : "[^a-zA-Z0-9_]";
      return !in_class_;
    }
    if (c == 'b' || c == 'B' || (c >= '0' && c <= '9') || c == 'k' || c == 'c') return false;
    if (c == 'u') return unicode();
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter && !std::string_view("nrtfvsSpPx").contains(c)) return false;
    branch_ += {'\\', c};
    return true;
  }

  bool unicode() {
    if (pattern_.size() < at_ + 4) return false;
    const std::string_view digits = pattern_.substr(at_, 4);
    if (!std::ranges::all_of(digits,
                             [](char d) { return std::string_view("0123456789abcdefABCDEF").contains(d); }))
      return false;
    if ((digits[0] == 'd' || digits[0] == 'D') && digits[1] >= '8') return false;  // Half of a pair.
    branch_ += "\\x{" + std::string(digits) + "}";
    at_ += 4;
    return true;
  }

  const std::string_view pattern_;
  size_t at_ = 0;
  int depth_ = 0;
  bool in_class_ = false;
  bool from_start_ = false, to_end_ = false;
  std::string branch_, out_;
};

}  // namespace

std::optional<std::string> SearchRegex(std::string_view pattern) { return PatternReader(pattern).read(); }

std::string_view FormatRegex(std::string_view format) {
  const auto found = std::ranges::find(kFormats, format, &Format::name);
  return found == std::end(kFormats) ? "" : found->regex;
}

}  // namespace shoal
