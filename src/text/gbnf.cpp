#include "text/gbnf.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal {
namespace {

constexpr int kDepthMax = 100;
constexpr int64_t kRepeatMax = 100'000;

/// An expression of a rule.
struct Node {
  enum class Kind { kText, kClass, kRule, kSequence, kChoice, kRepeat };
  Kind kind = Kind::kSequence;
  std::string text;            ///< kText: Lark's string; kClass: its regex.
  size_t rule = 0;             ///< kRule
  std::vector<Node> children;  ///< Of the others.
  int64_t least = 0;           ///< kRepeat: so often at least,
  int64_t most = -1;           ///< and at most; -1: any number of times.
};

struct Rule {
  std::string name;
  bool defined = false;
  Node body;
  bool recursive = false;  ///< It leads back to itself, or to a rule that does.
};

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/// A character as a regex that matches it alone.
std::string RegexCharacter(uint32_t character) { return fmt::format("\\x{{{:x}}}", character); }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<Rule>> parse() {
    skip_blanks(true);
    while (at_ < text_.size()) {
      RETURN_IF_ERROR(parse_rule());
      skip_blanks(true);
    }
    if (!numbers_.contains("root")) return wrong("there is no rule 'root', which is where a text begins");
    for (const Rule& rule : rules_) {
      if (!rule.defined) return wrong(fmt::format("the rule '{}' is used, but not defined", rule.name));
    }
    return std::move(rules_);
  }
  size_t root() const { return numbers_.at("root"); }

 private:
  absl::Status wrong(std::string_view what) const {
    const auto line = 1 + std::ranges::count(text_.substr(0, at_), '\n');
    return InvalidArgument("GBNF grammar, line {}: {}", line, what);
  }

  bool looking_at(std::string_view text) const { return text_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!looking_at(text)) return false;
    at_ += text.size();
    return true;
  }
  void skip_blanks(bool newlines) {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (c == ' ' || c == '\t' || c == '\r' || (newlines && c == '\n')) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string_view take_name() {
    const size_t begin = at_;
    while (at_ < text_.size() && IsNameByte(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }
  size_t rule_of(std::string_view name) {
    const auto [entry, fresh] = numbers_.emplace(name, rules_.size());
    if (fresh) rules_.emplace_back().name = name;
    return entry->second;
  }

  absl::Status parse_rule() {
    const std::string_view name = take_name();
    if (name.empty()) return wrong("expected the name of a rule");
    skip_blanks(false);
    if (!take("::=")) return wrong(fmt::format("expected '::=' behind the name '{}'", name));
    const size_t rule = rule_of(name);
    if (rules_[rule].defined) return wrong(fmt::format("the rule '{}' is defined twice", name));
    ASSIGN_OR_RETURN(Node body, parse_choice(false));
    rules_[rule].defined = true;
    rules_[rule].body = std::move(body);
    if (at_ < text_.size() && text_[at_] != '\n') return wrong("expected the end of the line");
    return absl::OkStatus();
  }

  /// nested: within parentheses, where lines go on.
  absl::StatusOr<Node> parse_choice(bool nested) {
    if (++depth_ > kDepthMax) return wrong(fmt::format("more than {} levels of parentheses", kDepthMax));
    Node choice{.kind = Node::Kind::kChoice};
    do {
      skip_blanks(true);
      ASSIGN_OR_RETURN(Node sequence, parse_sequence(nested));
      choice.children.push_back(std::move(sequence));
    } while (another_choice(nested));
    --depth_;
    return choice;
  }

  /// The next choice may begin on a line of its own.
  bool another_choice(bool nested) {
    skip_blanks(nested);
    const size_t before = at_;
    skip_blanks(true);
    if (take("|")) return true;
    at_ = before;
    return false;
  }

  absl::StatusOr<Node> parse_sequence(bool nested) {
    Node sequence;
    while (true) {
      skip_blanks(nested);
      if (at_ == text_.size() || text_[at_] == '\n' || text_[at_] == '|' || text_[at_] == ')')
        return sequence;
      ASSIGN_OR_RETURN(Node element, parse_element());
      for (int signs = 0;; ++signs) {
        ASSIGN_OR_RETURN(const bool repeated, parse_repeat(element));
        if (!repeated) break;
        // Each sign is a level of its own, over which the writer recurs.
        if (signs == kDepthMax) return wrong(fmt::format("more than {} signs of repetition", kDepthMax));
      }
      sequence.children.push_back(std::move(element));
    }
  }

  absl::StatusOr<Node> parse_element() {
    const char c = text_[at_];
    if (c == '"') return parse_text();
    if (c == '[') return parse_class();
    if (take(".")) return Node{.kind = Node::Kind::kClass, .text = "(?s:.)"};
    if (take("(")) {
      ASSIGN_OR_RETURN(Node inner, parse_choice(true));
      if (!take(")")) return wrong("expected ')'");
      return inner;
    }
    const std::string_view name = take_name();
    if (name.empty()) return wrong(fmt::format("'{}' begins no text, class, group or rule", c));
    return Node{.kind = Node::Kind::kRule, .rule = rule_of(name)};
  }

  absl::StatusOr<Node> parse_text() {
    ++at_;
    Node text{.kind = Node::Kind::kText};
    while (!take("\"")) {
      ASSIGN_OR_RETURN(const uint32_t character, take_character());
      text.text += RegexCharacter(character);
    }
    return text;
  }

  absl::StatusOr<Node> parse_class() {
    ++at_;
    Node out{.kind = Node::Kind::kClass, .text = take("^") ? "[^" : "["};
    if (looking_at("]")) return wrong("a class without a character");
    while (!take("]")) {
      ASSIGN_OR_RETURN(const uint32_t first, take_character());
      out.text += RegexCharacter(first);
      if (!looking_at("-") || looking_at("-]")) continue;
      ++at_;
      ASSIGN_OR_RETURN(const uint32_t last, take_character());
      if (last < first) return wrong("a range of characters that ends before it begins");
      out.text += "-" + RegexCharacter(last);
    }
    out.text += "]";
    return out;
  }

  /// One character of a text or a class.
  absl::StatusOr<uint32_t> take_character() {
    if (at_ == text_.size() || text_[at_] == '\n') return wrong("a text or a class that does not end");
    if (!take("\\")) return take_utf8();
    if (at_ == text_.size()) return wrong("a backslash at the end");
    const char c = text_[at_++];
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return take_hex(2);
      case 'u':
        return take_hex(4);
      case 'U':
        return take_hex(8);
      case '"':
      case '\\':
      case '[':
      case ']':
      case '-':
      case '^':
      case '/':
      case '\'':
        return static_cast<uint32_t>(c);
      default:
        return wrong(fmt::format("the escape '\\{}' is not known", c));
    }
  }

  absl::StatusOr<uint32_t> take_hex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return wrong(fmt::format("expected {} hexadecimal digits", digits));
      value = value << 4 | static_cast<uint32_t>(digit);
    }
    if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
      return wrong("an escape that is no character");
    return value;
  }

  absl::StatusOr<uint32_t> take_utf8() {
    const auto byte = [&](size_t i) {
      return at_ + i < text_.size() ? static_cast<uint8_t>(text_[at_ + i]) : uint8_t{0};
    };
    const uint8_t first = byte(0);
    const size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t value = length == 1 ? first : first & (0x7f >> length);
    for (size_t i = 1; i < length; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return wrong("text that is not UTF-8");
      value = value << 6 | (byte(i) & 0x3f);
    }
    at_ += length;
    return value;
  }

  /// Whether a sign of repetition stood there, which now applies to `element`.
  absl::StatusOr<bool> parse_repeat(Node& element) {
    Node repeat{.kind = Node::Kind::kRepeat};
    if (take("*")) {
    } else if (take("+")) {
      repeat.least = 1;
    } else if (take("?")) {
      repeat.most = 1;
    } else if (take("{")) {
      RETURN_IF_ERROR(parse_bounds(repeat));
    } else {
      return false;
    }
    repeat.children.push_back(std::move(element));
    element = std::move(repeat);
    return true;
  }

  absl::Status parse_bounds(Node& repeat) {
    skip_blanks(false);
    ASSIGN_OR_RETURN(repeat.least, take_number());
    repeat.most = repeat.least;
    skip_blanks(false);
    if (take(",")) {
      skip_blanks(false);
      repeat.most = -1;
      if (!looking_at("}")) {
        ASSIGN_OR_RETURN(repeat.most, take_number());
      }
      skip_blanks(false);
    }
    if (!take("}")) return wrong("expected '}'");
    if (repeat.most >= 0 && repeat.most < repeat.least) return wrong("a repetition of less than its least");
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> take_number() {
    int64_t value = 0;
    const size_t begin = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      value = 10 * value + (text_[at_] - '0');
      if (value > kRepeatMax) return wrong(fmt::format("more than {} repetitions", kRepeatMax));
    }
    if (at_ == begin) return wrong("expected a number of repetitions");
    return value;
  }

  const std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  std::vector<Rule> rules_;
  std::map<std::string, size_t, std::less<>> numbers_;
};

void CollectRules(const Node& node, std::vector<size_t>& used) {
  if (node.kind == Node::Kind::kRule) used.push_back(node.rule);
  for (const Node& child : node.children) CollectRules(child, used);
}

/// A rule is not recursive once all that it uses are known not to be: those that are left are.
void MarkRecursive(std::vector<Rule>& rules) {
  std::vector<std::vector<size_t>> users(rules.size());
  std::vector<size_t> open(rules.size());
  std::vector<size_t> done;
  for (size_t i = 0; i < rules.size(); ++i) {
    std::vector<size_t> used;
    CollectRules(rules[i].body, used);
    open[i] = used.size();
    for (const size_t rule : used) users[rule].push_back(i);
    if (used.empty()) done.push_back(i);
    rules[i].recursive = true;
  }
  while (!done.empty()) {
    const size_t rule = done.back();
    done.pop_back();
    rules[rule].recursive = false;
    for (const size_t user : users[rule]) {
      if (--open[user] == 0) done.push_back(user);
    }
  }
}

class LarkWriter {
 public:
  explicit LarkWriter(const std::vector<Rule>& rules) : rules_(rules) {}

  std::string write(size_t root) {
    std::string out = fmt::format("start: {}\n", name(root));
    for (size_t i = 0; i < rules_.size(); ++i) {
      const Node& body = rules_[i].body;
      out += fmt::format("{}: {}\n", name(i), rules_[i].recursive ? as_rule(body) : as_terminal(body));
    }
    return out + terminals_;
  }

 private:
  /// Lower case makes a rule, upper case a terminal.
  std::string name(size_t rule) const {
    return fmt::format("{}{}", rules_[rule].recursive ? "r" : "R", rule);
  }

  bool recursive(const Node& node) const {
    if (node.kind == Node::Kind::kRule) return rules_[node.rule].recursive;
    return std::ranges::any_of(node.children, [&](const Node& child) { return recursive(child); });
  }

  static std::string bounds(const Node& repeat) {
    if (repeat.most == -1) return fmt::format("{{{},}}", repeat.least);
    return fmt::format("{{{},{}}}", repeat.least, repeat.most);
  }

  std::string as_terminal(const Node& node) const {
    switch (node.kind) {
      case Node::Kind::kText:
        return node.text.empty() ? "\"\"" : "/" + node.text + "/";
      case Node::Kind::kClass:
        return "/" + node.text + "/";
      case Node::Kind::kRule:
        return name(node.rule);
      case Node::Kind::kRepeat:
        return "(" + as_terminal(node.children[0]) + ")" + bounds(node);
      case Node::Kind::kSequence:
      case Node::Kind::kChoice:
        break;
    }
    if (node.children.empty()) return "\"\"";
    std::string out;
    const bool choice = node.kind == Node::Kind::kChoice;
    for (const Node& child : node.children) {
      if (!out.empty()) out += choice ? " | " : " ";
      out += as_terminal(child);
    }
    return choice ? "(" + out + ")" : out;
  }

  /// A terminal of its own for a part of a rule.
  std::string new_terminal(const Node& node) {
    const std::string terminal = fmt::format("T{}", terminal_count_++);
    terminals_ += fmt::format("{}: {}\n", terminal, as_terminal(node));
    return terminal;
  }

  std::string as_rule(const Node& node) {
    if (!recursive(node)) return new_terminal(node);
    switch (node.kind) {
      case Node::Kind::kRule:
        return name(node.rule);
      case Node::Kind::kRepeat:
        return "(" + as_rule(node.children[0]) + ")" + bounds(node);
      case Node::Kind::kChoice: {
        std::string out;
        for (const Node& child : node.children) out += (out.empty() ? "" : " | ") + as_rule(child);
        return "(" + out + ")";
      }
      default:
        return sequence_as_rule(node);
    }
  }

  /// Neighbours that lead to no recursive rule are one terminal.
  std::string sequence_as_rule(const Node& sequence) {
    std::string out;
    Node run;
    const auto end_run = [&] {
      if (!run.children.empty()) out += new_terminal(run) + " ";
      run.children.clear();
    };
    for (const Node& child : sequence.children) {
      if (!recursive(child)) {
        run.children.push_back(child);
        continue;
      }
      end_run();
      out += as_rule(child) + " ";
    }
    end_run();
    return out;
  }

  const std::vector<Rule>& rules_;
  std::string terminals_;
  int terminal_count_ = 0;
};

}  // namespace

bool IsGbnf(std::string_view grammar) {
  for (size_t begin = 0; begin < grammar.size();) {
    const size_t end = std::min(grammar.find('\n', begin), grammar.size());
    std::string_view before = grammar.substr(begin, end - begin);
    begin = end + 1;
    const size_t at = before.find("::=");  // A later one has a ':' before it.
    if (at == std::string_view::npos) continue;
    before = before.substr(0, at);
    while (!before.empty() && (before.back() == ' ' || before.back() == '\t')) before.remove_suffix(1);
    while (!before.empty() && (before.front() == ' ' || before.front() == '\t')) before.remove_prefix(1);
    if (!before.empty() && std::ranges::all_of(before, IsNameByte)) return true;
  }
  return false;
}

absl::StatusOr<std::string> LarkFromGbnf(std::string_view grammar) {
  Parser parser(grammar);
  ASSIGN_OR_RETURN(std::vector<Rule> rules, parser.parse());
  MarkRecursive(rules);
  return LarkWriter(rules).write(parser.root());
}

}  // namespace shoal
