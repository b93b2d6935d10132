// Puts grammars in Lark together, for a tokenizer: markers may be special tokens, which are no text.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/output/call_syntax.h"
#include "text/tokenizer.h"

namespace shoal {

/// A regular expression between slashes, for Lark.
std::string Slashed(std::string_view regex);

struct TextPattern {
  std::string regex;
  std::vector<std::string> forbidden = {};  ///< Texts that must not be in it.
  std::string conditions = "";  ///< More of a terminal's conditions, each with its sign before it.
  std::string never = "";       ///< What it must not be, with or without spaces behind: a regular expression.
};

class LarkText {
 public:
  explicit LarkText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void add(std::string_view rule);
  /// A name that no rule has yet, from `prefix`: in capitals, that of a terminal.
  std::string fresh(std::string_view prefix);

  /// The text itself: special tokens and what stands between them.
  std::string mark(std::string_view text);
  std::string notation(const Notation& pieces);
  /// Whether a part of the text is a special token.
  bool has_special(std::string_view text);

  /// Any text up to the marker's first occurrence, and the marker.
  std::string until(const std::string& marker);
  /// Any text without the markers, with the special tokens of `shown` in it.
  std::string without(const std::vector<std::string>& markers, const std::vector<std::string>& shown);
  /// The same, and the marker behind it.
  std::string without_until(const std::vector<std::string>& markers, const std::vector<std::string>& shown,
                            const std::string& marker);
  /// A text of the pattern, and `closer` behind it.
  std::string text_and(const TextPattern& pattern, const std::string& closer);
  /// A terminal: `regex` without any of `forbidden` in it.
  std::string terminal_without(const std::string& regex, const std::vector<std::string>& forbidden);

  std::string take(std::string_view start) const;

 private:
  struct Piece {
    std::string text;
    std::optional<int32_t> token;  ///< What the text is, if it is a special token.
  };

  const std::vector<Piece>& pieces(std::string_view text);
  std::optional<int32_t> special(const std::string& text) const;
  std::string shown_marks(const std::vector<std::string>& shown);
  /// The text of a marker before its first special token, and the rest.
  std::pair<std::string, std::string> split(std::string_view marker);

  const Tokenizer& tokenizer_;
  std::map<std::string, std::vector<Piece>, std::less<>> pieces_;
  std::string rules_;
  int count_ = 0;
};

}  // namespace shoal
