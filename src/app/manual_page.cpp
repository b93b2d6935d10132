#include <algorithm>
#include <map>
#include <string_view>
#include <vector>

#include "app/command_pages.h"
#include "base/text.h"

namespace shoal {
namespace {

/// Text that troff prints as it is. A dash is a minus, which can be copied from the page; lines do not begin with a command.
std::string Troff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (out.empty() && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (c == '\n') {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out;
}

std::string InBold(std::string_view text) { return "\\fB" + Troff(text) + "\\fR"; }

/// "--lines, -n value": what stands before the help of a flag.
std::string HeadOf(const FlagText& flag) {
  std::vector<std::string> names;
  for (const std::string& name : flag.names) {
    names.push_back(flag.positional ? "\\fI" + Troff(name) + "\\fR" : InBold(name));
  }
  std::string head = Join(names, ", ");
  if (!flag.positional && flag.takes_value) {
    head += flag.choices.empty() ? " \\fIvalue\\fR" : " " + Troff(Join(flag.choices, "|"));
  }
  return head;
}

std::string HelpOf(const FlagText& flag) {
  std::string help = flag.help;
  if (flag.required) help += " (required)";
  if (flag.positional && !flag.choices.empty()) help += ": " + Join(flag.choices, ", ");
  std::string text = Troff(help);
  if (!flag.variable.empty()) text += "\n.br\nEnvironment: " + InBold(flag.variable);
  return text;
}

bool IsHelp(const FlagText& flag) { return !flag.names.empty() && flag.names.front() == "--help"; }

void AddFlags(const CommandText& command, std::string& page) {
  for (const FlagText& flag : command.flags) {
    if (!IsHelp(flag)) page += ".TP\n" + HeadOf(flag) + "\n" + HelpOf(flag) + "\n";
  }
}

void AddCommand(const CommandText& command, const std::string& before, std::string& page) {
  const std::string words = before + " " + command.name;
  page += ".SS " + InBold(words);
  for (const FlagText& flag : command.flags) {
    if (flag.positional) page += " \\fI" + Troff(flag.names.front()) + "\\fR";
  }
  page += "\n" + Troff(command.help) + "\n";
  AddFlags(command, page);
  for (const CommandText& one : command.commands) AddCommand(one, words, page);
}

void CollectVariables(const CommandText& command, std::map<std::string, std::vector<std::string>>& flags) {
  for (const FlagText& flag : command.flags) {
    if (flag.variable.empty()) continue;
    std::vector<std::string>& known = flags[flag.variable];
    if (std::ranges::find(known, flag.names.front()) == known.end()) known.push_back(flag.names.front());
  }
  for (const CommandText& one : command.commands) CollectVariables(one, flags);
}

constexpr char kEnd[] = R"(.SH FILES
.TP
.I /etc/shoal/serve.env, /etc/shoal/worker.env
Flags of the services shoal.service and shoal\-worker.service.
.TP
.I /usr/share/shoal/models
The demo model.
.TP
.I $XDG_CACHE_HOME/shoal, ~/.cache/shoal
Packed weights, fetched weights and KV blocks on disk, the measured profile of this machine.
.SH EXIT STATUS
.TP
.B 0
It worked.
.TP
.B 1
It failed; the reason is on standard error.
.TP
.B 2
The command line, or a file that it names, is wrong.
.SH EXAMPLES
.nf
shoal serve \-\-model /usr/share/shoal/models/shoal\-demo\-4bit
shoal chat
.fi
.SH SEE ALSO
.BR systemctl (1),
.BR curl (1)
)";

}  // namespace

std::string ManualPage(const CommandText& program, const std::string& version) {
  std::string page =
      ".\\\" Made by: shoal manual\n.TH SHOAL 1 \"\" \"" + Troff(version) +
      "\" \"User Commands\"\n.SH NAME\nshoal \\- serve large language models on several machines\n"
      ".SH SYNOPSIS\n.B shoal\n.I command\n[\\fIflags\\fR]\n.SH DESCRIPTION\n" +
      Troff(program.help) + "\n.PP\nWith every command,\n.B \\-\\-help\nprints what it takes.\n.SH OPTIONS\n";
  AddFlags(program, page);
  page += ".SH COMMANDS\n";
  for (const CommandText& command : program.commands) AddCommand(command, program.name, page);
  page += ".SH ENVIRONMENT\nA flag that is given goes before its variable.\n";
  std::map<std::string, std::vector<std::string>> variables;
  CollectVariables(program, variables);
  for (const auto& [variable, flags] : variables) {
    page += ".TP\n" + InBold(variable) + "\n" + Troff(Join(flags, ", ")) + "\n";
  }
  return page + kEnd;
}

}  // namespace shoal
