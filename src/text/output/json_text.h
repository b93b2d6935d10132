// JSON that arrives byte by byte: where a value ends, what a string says, and how to write one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace shoal {

inline bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/// `text` without spaces around it.
std::string_view Trimmed(std::string_view text);

/// What the next byte did to a value.
enum class ValueState {
  kMore,        ///< It belongs to the value, which goes on.
  kDone,        ///< It was the value's last byte.
  kDoneBefore,  ///< The value ended before it.
  kBroken,      ///< No value can go on like this.
};

/// Finds the end of one JSON value. It checks strings and brackets, not the grammar within: a value that is not
/// quite JSON passes as it is.
class JsonScanner {
 public:
  ValueState next(char c);

 private:
  ValueState next_in_string(char c);

  std::string open_;  ///< The brackets that are open.
  bool in_string_ = false;
  bool escaped_ = false;
  bool scalar_ = false;
};

/// The number that hexadecimal digits, at most eight, spell.
uint32_t HexNumber(std::string_view digits);

/// Joins units of UTF-16, as escapes give them, to characters.
class Utf16Joiner {
 public:
  /// Appends what `unit` completes, as UTF-8: nothing where it is the first half of a pair.
  void add(uint32_t unit, std::string& text);
  /// Something else follows: a half that waits for its other becomes U+FFFD.
  void end(std::string& text);

 private:
  uint32_t half_ = 0;
};

/// Reads a JSON string's text from the byte after its opening quote.
class JsonStringReader {
 public:
  /// Appends what the string says to `text`. kDone: `c` is the closing quote. What only looks like an escape stays
  /// as it is.
  ValueState next(char c, std::string& text);

  /// How many bytes of an escape are held back.
  size_t held() const { return escape_.size(); }

 private:
  ValueState next_plain(char c, std::string& text);
  void end_escape(std::string& text);

  std::string escape_;  ///< The escape being read, from its backslash.
  Utf16Joiner units_;
};

/// Appends UTF-8. Anything that is no character becomes U+FFFD.
void AppendUtf8(std::string& text, uint32_t character);

/// Appends `text` as the inside of a JSON string. Its pieces may be appended one by one.
void AppendEscaped(std::string& json, std::string_view text);

/// `text` as a JSON string.
std::string JsonQuoted(std::string_view text);

/// Whether `text` is one JSON value, of bounded depth.
bool IsJson(std::string_view text);

}  // namespace shoal
