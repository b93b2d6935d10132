// Words for a POSIX shell. Only `ssh` needs them: it hands its command to a shell on the other machine.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shoal {

/// `text` as one word of a POSIX shell, whatever is in it but NUL: 'it'\''s'.
std::string ShellQuote(std::string_view text);

/// A command line that runs `script` with sh, whatever the login shell is. `arguments` are the script's $1, $2, ...:
/// data, which no shell reads as commands.
std::string ShellCommand(std::string_view script, const std::vector<std::string>& arguments);

}  // namespace shoal
