#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <charconv>
#include <cmath>
#include <istream>
#include <streambuf>
#include <utility>

#include "absl/strings/charconv.h"
#include "plan/config_tree.h"
#include "plan/config_value.h"

namespace shoal {
namespace {

/// Thrown to stop the parser, since the handler interface has no other way. Caught in ParseYamlConfig.
struct StopParsing {};

/// Receives yaml-cpp's events rather than its finished tree, so that aliases are refused before they can
/// multiply.
class YamlHandler : public YAML::EventHandler {
 public:
  explicit YamlHandler(const ConfigLimits& limits) : tree_(limits) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add_plain("", mark);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    demand(tree_.fail(line(mark), "aliases (*name) are not supported: write the value out"));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    if (tag == "!") {  // yaml-cpp marks a quoted scalar with "!", a plain one with "?" or "".
      if (tree_.wants_key()) {
        add_key(value, mark);
      } else {
        demand(tree_.add_string(value, line(mark)));
      }
    } else {
      refuse_tag(mark, tag);
      add_plain(value, mark);
    }
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(ConfigValue::Kind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { demand(tree_.close()); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(ConfigValue::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { demand(tree_.close()); }

  ConfigTree& tree() { return tree_; }

 private:
  static int line(const YAML::Mark& mark) { return mark.line + 1; }
  static void demand(bool ok) {
    if (!ok) throw StopParsing{};
  }
  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) demand(tree_.fail(line(mark), "anchors (&name) are not supported: write the value out"));
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    demand(tree_.fail(line(mark), fmt::format("the tag '{}' is not supported", tag)));
  }
  void open(ConfigValue::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (tree_.wants_key()) demand(tree_.fail(line(mark), "a key must be a text"));
    key_line_ = 0;
    demand(tree_.open(kind, line(mark)));
  }

  void add_key(const std::string& key, const YAML::Mark& mark) {
    demand(tree_.add_key(key, line(mark)));
    key_line_ = line(mark);
  }

  /// Adds a plain scalar by the core schema of YAML 1.2, section 10.3.2. Octal and hexadecimal numbers,
  /// infinities and NaN stay texts.
  void add_plain(const std::string& value, const YAML::Mark& mark) {
    if (tree_.wants_key()) {
      add_key(value, mark);
      return;
    }
    const int key_line = std::exchange(key_line_, 0);
    if (value.empty() || value == "~" || value == "null" || value == "Null" || value == "NULL") {
      // yaml-cpp marks an absent value with the place of the next token, so use the line of the key.
      demand(tree_.add_null(key_line == 0 ? line(mark) : key_line));
      return;
    }
    const bool is_true = value == "true" || value == "True" || value == "TRUE";
    if (is_true || value == "false" || value == "False" || value == "FALSE") {
      demand(tree_.add_bool(is_true, line(mark)));
      return;
    }
    const char* begin = value.data() + (value[0] == '+' ? 1 : 0);
    const char* end = value.data() + value.size();
    int64_t integer = 0;
    if (const auto [rest, error] = std::from_chars(begin, end, integer);
        error == std::errc() && rest == end) {
      demand(tree_.add_integer(integer, line(mark)));
      return;
    }
    double number = 0;
    if (const auto [rest, error] = absl::from_chars(begin, end, number);
        error == std::errc() && rest == end && std::isfinite(number)) {
      demand(tree_.add_number(number, line(mark)));
      return;
    }
    demand(tree_.add_string(value, line(mark)));
  }

  ConfigTree tree_;
  int key_line_ = 0;  ///< The line of the key whose value comes next.
};

/// Reads a string_view without copying it.
class ViewBuffer : public std::streambuf {
 public:
  explicit ViewBuffer(std::string_view text) {
    char* begin = const_cast<char*>(text.data());  // Required by streambuf, which only reads here.
    setg(begin, begin, begin + text.size());
  }
};

}  // namespace

absl::StatusOr<ConfigValue> ParseYamlConfig(std::string_view text, const ConfigLimits& limits) {
  RETURN_IF_ERROR(CheckConfigSize(text, limits));
  ViewBuffer buffer(text);
  std::istream stream(&buffer);
  YamlHandler handler(limits);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(handler)) return InvalidArgument("the file is empty");
    if (parser) return InvalidArgument("more than one YAML document: expected one");
  } catch (const StopParsing&) {
    return handler.tree().status();
  } catch (const YAML::Exception& error) {
    return InvalidArgument("not YAML: line {}, column {}: {}", error.mark.line + 1, error.mark.column + 1,
                           error.msg);
  }
  return handler.tree().take_root();
}

}  // namespace shoal
