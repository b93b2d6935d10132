#include "launch/shell_quote.h"

#include <gtest/gtest.h>

#include "launch/subprocess.h"

namespace shoal {
namespace {

/// What `command` writes when a shell runs it.
std::string Said(const std::string& command) {
  const auto result = RunSubprocess({.argv = {"sh", "-c", command}, .deadline = Deadline::after_ms(10000)});
  EXPECT_TRUE(result.ok() && result->exit_code == 0);
  return result.ok() ? result->output : "";
}

class Quoting : public ::testing::TestWithParam<std::string> {};

TEST_P(Quoting, AShellTakesTheWordForData) {
  EXPECT_EQ(Said("printf %s " + ShellQuote(GetParam())), GetParam());
}

TEST_P(Quoting, ArgumentsOfAScriptAreData) {
  EXPECT_EQ(Said(ShellCommand("printf '%s|%s' \"$1\" \"$#\"", {GetParam(), "second"})), GetParam() + "|2");
}

// A login shell evaluates the line first, and sh the script then.
TEST_P(Quoting, TwoShellsTakeItForDataToo) {
  EXPECT_EQ(Said("sh -c " + ShellQuote("printf %s " + ShellQuote(GetParam()))), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Words, Quoting,
                         ::testing::Values("", "plain", "with space", "it's", "'", "''", "\"", "$(exit 1)",
                                           "`exit 1`", "a;exit 1", "&&", "\\", "\\'", "new\nline", "*", "~",
                                           "-n", "!x", "#", "${HOME}", "\xc3\xa9"));

}  // namespace
}  // namespace shoal
