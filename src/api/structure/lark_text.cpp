#include "api/structure/lark_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/json.h"
#include "api/structure/structure.h"

namespace shoal {
namespace {

constexpr size_t kTokenBytesMax = 64;

/// A terminal's condition that none of the texts is in it; with `more`, none but at its end.
std::string NoneOf(const std::vector<std::string>& texts, bool but_at_its_end) {
  if (texts.empty()) return "";
  return fmt::format(" & ~/(?s:.*){}(?s:.{})/", ChoiceRegex(texts), but_at_its_end ? "+" : "*");
}

}  // namespace

std::string Slashed(std::string_view regex) {
  std::string out = "/";
  for (size_t i = 0; i < regex.size(); ++i) {
    if (regex[i] == '\\' && i + 1 < regex.size()) {
      out += regex[i++];
      out += regex[i];
    } else if (regex[i] == '/') {
      out += "\\/";
    } else if (regex[i] == '\n') {
      out += "\\n";
    } else {
      out += regex[i];
    }
  }
  return out + "/";
}

void LarkText::add(std::string_view rule) { rules_ += fmt::format("{}\n", rule); }

std::string LarkText::fresh(std::string_view prefix) { return fmt::format("{}{}", prefix, count_++); }

/// A token that stands for itself, not for the bytes of its name. llguidance takes "<tool_call>" for one whatever
/// the tokenizer says of it.
std::optional<int32_t> LarkText::special(const std::string& text) const {
  const std::optional<int32_t> id = tokenizer_.token_id(text);
  if (!id.has_value()) return std::nullopt;
  const bool in_brackets = text.starts_with('<') && text.ends_with('>');
  return in_brackets || tokenizer_.is_special(*id) ? id : std::nullopt;
}

// A special token in a text is found as the tokenizer finds it: the longest from the left.
const std::vector<LarkText::Piece>& LarkText::pieces(std::string_view text) {
  const auto known = pieces_.find(text);
  if (known != pieces_.end()) return known->second;
  std::vector<Piece> pieces;
  for (size_t at = 0; at < text.size();) {
    std::optional<int32_t> token;
    size_t size = std::min(kTokenBytesMax, text.size() - at);
    for (; size > 0 && !token.has_value(); --size) token = special(std::string(text.substr(at, size)));
    if (token.has_value()) {
      ++size;
      pieces.push_back({std::string(text.substr(at, size)), token});
      at += size;
    } else {
      if (pieces.empty() || pieces.back().token.has_value()) pieces.push_back({});
      pieces.back().text += text[at++];
    }
  }
  return pieces_.emplace(std::string(text), std::move(pieces)).first->second;
}

std::string LarkText::mark(std::string_view text) {
  std::string out;
  for (const Piece& piece : pieces(text)) {
    if (!out.empty()) out += ' ';
    out += piece.token.has_value() ? fmt::format("<[{}]>", *piece.token) : Quoted(piece.text);
  }
  return out;
}

bool LarkText::has_special(std::string_view text) {
  return std::ranges::any_of(pieces(text), [](const Piece& piece) { return piece.token.has_value(); });
}

std::string LarkText::notation(const Notation& all) {
  std::string out;
  for (const NotationPiece& piece : all) {
    if (!out.empty()) out += ' ';
    switch (piece.kind) {
      case NotationPiece::Kind::kText:
        out += mark(piece.text);
        break;
      case NotationPiece::Kind::kMaybe:
        out += fmt::format("({})?", mark(piece.text));
        break;
      case NotationPiece::Kind::kRegex:
        out += Slashed(piece.text);
        break;
    }
  }
  return out;
}

std::pair<std::string, std::string> LarkText::split(std::string_view marker) {
  const std::vector<Piece>& all = pieces(marker);
  const bool plain_first = !all.empty() && !all.front().token.has_value();
  std::string plain = plain_first ? all.front().text : "";
  std::string rest(marker.substr(plain.size()));
  return {std::move(plain), std::move(rest)};
}

std::string LarkText::until(const std::string& marker) {
  const auto [plain, rest] = split(marker);
  const std::string at = plain.empty() ? "" : ChoiceRegex({plain});
  if (rest.empty()) {
    const std::string name = fresh("UNTIL");
    add(fmt::format("{0}: /(?s:.*){1}/ & ~/(?s:.*){1}(?s:.+)/", name, at));
    return name;
  }
  if (plain.empty()) return "ANY? " + mark(rest);
  const std::string name = fresh("UNTIL");
  add(fmt::format("{}: /(?s:.*){}/", name, at));
  return fmt::format("{} {}", name, mark(rest));
}

std::string LarkText::shown_marks(const std::vector<std::string>& shown) {
  std::string marks;
  for (const std::string& text : shown) {
    if (has_special(text)) marks += fmt::format("{}{}", marks.empty() ? "" : " | ", mark(text));
  }
  return marks;
}

std::string LarkText::without(const std::vector<std::string>& markers,
                              const std::vector<std::string>& shown) {
  const std::string text = fresh("WITHOUT");
  // A complement alone would take any text, and only never end.
  add(fmt::format("{}: /(?s:.+)/{}", text, NoneOf(markers, false)));
  const std::string marks = shown_marks(shown);
  // Two texts side by side could make a marker together.
  return marks.empty() ? text + "?" : fmt::format("{0}? (({1}) {0}?)*", text, marks);
}

std::string LarkText::without_until(const std::vector<std::string>& markers,
                                    const std::vector<std::string>& shown, const std::string& marker) {
  const auto [plain, rest] = split(marker);
  std::string before;
  if (const std::string marks = shown_marks(shown); !marks.empty()) {
    const std::string text = fresh("WITHOUT");
    add(fmt::format("{}: /(?s:.+)/{}", text, NoneOf(markers, false)));
    before = fmt::format("({}? ({}))* ", text, marks);
  }
  const std::string last = fresh("UNTIL");
  const std::string at = plain.empty() ? "" : ChoiceRegex({plain});
  add(fmt::format("{}: /(?s:.*){}/{}", last, at, NoneOf(markers, rest.empty())));
  return rest.empty() ? before + last : fmt::format("{}{} {}", before, last, mark(rest));
}

std::string LarkText::text_and(const TextPattern& pattern, const std::string& closer) {
  const auto [plain, rest] = split(closer);
  const std::string name = fresh("TEXT");
  const std::string at = plain.empty() ? "" : ChoiceRegex({plain});
  const std::string never = pattern.never.empty() ? "" : fmt::format(" & ~/{}\\s*{}/", pattern.never, at);
  add(fmt::format("{}: {}{}{}{}", name, Slashed(fmt::format("(?:{}){}", pattern.regex, at)),
                  NoneOf(pattern.forbidden, rest.empty()), pattern.conditions, never));
  return rest.empty() ? name : fmt::format("{} {}", name, mark(rest));
}

std::string LarkText::terminal_without(const std::string& regex, const std::vector<std::string>& forbidden) {
  const std::string name = fresh("TERMINAL");
  add(fmt::format("{}: {}{}", name, Slashed(regex), NoneOf(forbidden, false)));
  return name;
}

std::string LarkText::take(std::string_view start) const {
  return fmt::format("start: {}\nANY: /(?s:.+)/\n{}", start, rules_);
}

}  // namespace shoal
