#include "launch/env_file.h"

#include <algorithm>

#include "base/status.h"

namespace shoal {
namespace {

constexpr std::string_view kSpace = " \t\r";

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  absl::StatusOr<std::map<std::string, std::string>> read() {
    std::map<std::string, std::string> values;
    while (true) {
      skip_blank_lines();
      if (at_ == text_.size()) return values;
      line_ = 1 + std::count(text_.begin(), text_.begin() + static_cast<ptrdiff_t>(at_), '\n');
      ASSIGN_OR_RETURN(std::string name, read_name());
      ASSIGN_OR_RETURN(std::string value, read_value());
      values.insert_or_assign(std::move(name), std::move(value));
    }
  }

 private:
  absl::Status error(std::string_view what) const { return InvalidArgument("line {}: {}", line_, what); }
  bool more() const { return at_ < text_.size(); }
  void skip(std::string_view any_of) {
    while (more() && any_of.find(text_[at_]) != std::string_view::npos) ++at_;
  }
  void skip_line() { at_ = std::min(text_.find('\n', at_), text_.size()); }

  void skip_blank_lines() {
    while (true) {
      skip(" \t\r\n");
      if (!more() || text_[at_] != '#') return;
      skip_line();
    }
  }

  std::string word() {
    const size_t begin = at_;
    while (more() && (IsLetter(text_[at_]) || IsDigit(text_[at_]))) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  absl::StatusOr<std::string> read_name() {
    std::string name = word();
    skip(kSpace);
    if (name == "export" && more() && text_[at_] != '=') {
      name = word();
      skip(kSpace);
    }
    if (!IsVariableName(name) || !more() || text_[at_] != '=') {
      return error("expected NAME=VALUE, with letters, digits and _ in the name");
    }
    ++at_;
    skip(kSpace);
    return name;
  }

  absl::StatusOr<std::string> read_value() {
    if (more() && (text_[at_] == '\'' || text_[at_] == '"')) return read_quoted();
    const size_t begin = at_;
    skip_line();
    std::string_view value = text_.substr(begin, at_ - begin);
    // A # with a space before it begins a comment.
    for (size_t i = 0; i < value.size(); ++i) {
      if (value[i] != '#' || (i > 0 && kSpace.find(value[i - 1]) == std::string_view::npos)) continue;
      value = value.substr(0, i);
      break;
    }
    while (!value.empty() && kSpace.find(value.back()) != std::string_view::npos) value.remove_suffix(1);
    return checked(std::string(value));
  }

  absl::StatusOr<std::string> read_quoted() {
    const char quote = text_[at_++];
    std::string value;
    for (; more() && text_[at_] != quote; ++at_) {
      if (quote == '"' && text_[at_] == '\\' && at_ + 1 < text_.size()) {
        value += unescaped(text_[++at_]);
      } else {
        value += text_[at_];
      }
    }
    if (!more()) return error("the quote is not closed");
    ++at_;
    skip(kSpace);
    if (more() && text_[at_] == '#') skip_line();
    if (more() && text_[at_] != '\n') return error("expected the end of the line behind the closing quote");
    return checked(std::move(value));
  }

  static std::string unescaped(char c) {
    if (c == 'n') return "\n";
    if (c == 't') return "\t";
    if (c == '"' || c == '\\' || c == '$') return {c};
    return {'\\', c};
  }

  absl::StatusOr<std::string> checked(std::string value) const {
    if (std::ranges::count(value, '\0') > 0) return error("a value can't have a NUL byte");
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
  int64_t line_ = 1;
};

}  // namespace

bool IsVariableName(std::string_view name) {
  return !name.empty() && IsLetter(name.front()) &&
         std::all_of(name.begin(), name.end(), [](char c) { return IsLetter(c) || IsDigit(c); });
}

absl::StatusOr<std::map<std::string, std::string>> ParseEnvFile(std::string_view text) {
  return Reader(text).read();
}

}  // namespace shoal
