#include "launch/shell_quote.h"

namespace shoal {

std::string ShellQuote(std::string_view text) {
  std::string word = "'";
  for (const char c : text) {
    if (c == '\'') {
      word += "'\\''";
    } else {
      word += c;
    }
  }
  return word + "'";
}

std::string ShellCommand(std::string_view script, const std::vector<std::string>& arguments) {
  std::string line = "exec sh -c " + ShellQuote(script) + " sh";
  for (const std::string& argument : arguments) line += " " + ShellQuote(argument);
  return line;
}

}  // namespace shoal
