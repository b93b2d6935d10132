// Values written as Python or as a model's own notation, turned into JSON while they arrive.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "text/output/json_text.h"
#include "text/output/marker_matcher.h"

namespace shoal {

struct LiteralSyntax {
  /// The marker around strings, which have no escapes; "": strings are quoted as in Python and JSON.
  std::string quote = "";
};

/// The escapes of a Python string; JSON's are among them.
class PythonEscape {
 public:
  /// Whether `c`, which stands in a string, belongs to an escape; else it is to be taken as it is. Appends what a
  /// complete escape says, escaped for JSON.
  bool takes(char c, std::string& json);
  /// How many bytes of an escape are held back.
  size_t held() const { return held_.size(); }

 private:
  void end(std::string& json);

  std::string held_;
  Utf16Joiner units_;
};

/// Reads one value: strings, numbers, True, None, lists, tuples, dicts; JSON's own words, too. A bare word that is none
/// of them becomes a string.
class LiteralReader {
 public:
  explicit LiteralReader(LiteralSyntax syntax = {}) : syntax_(std::move(syntax)), mark_({syntax_.quote}) {}

  /// Appends JSON to `json`. kDoneBefore: a word or number ended before `c`.
  ValueState next(char c, std::string& json);

  /// How many bytes are held back.
  size_t held() const { return held_.size() + mark_.held() + escape_.held() + (triple_ ? quotes_ : 0); }

 private:
  enum class At { kValue, kWord, kOpeningMark, kString, kMaybeTriple, kMarkedString, kAfter };

  ValueState next_value(char c, std::string& json);
  ValueState next_word(char c, std::string& json);
  ValueState next_opening_mark(char c, std::string& json);
  ValueState next_string(char c, std::string& json);
  ValueState next_quote(std::string& json);
  ValueState next_maybe_triple(char c, std::string& json);
  ValueState next_marked_string(char c, std::string& json);
  ValueState next_after(char c, std::string& json);
  ValueState open(char bracket, std::string& json);
  ValueState close(char bracket, std::string& json);
  ValueState end_value();
  void begin_item(std::string& json);
  bool in_object() const { return !open_.empty() && open_.back() == '{'; }

  LiteralSyntax syntax_;
  At at_ = At::kValue;
  std::string open_;       ///< The brackets that are open; '(' counts as '['.
  bool comma_ = false;     ///< A comma is due before the next item.
  bool key_next_ = false;  ///< The next value is a key.
  bool is_key_ = false;    ///< The value being read, or just read, is a key.
  char quote_ = 0;
  size_t quotes_ = 0;  ///< Quotes in a row within a string of triple quotes.
  bool triple_ = false;
  PythonEscape escape_;
  std::string held_;    ///< A word, or a part of the opening marker.
  MarkerMatcher mark_;  ///< Finds the closing one.
};

}  // namespace shoal
