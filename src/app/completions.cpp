// Scripts that complete command lines. What a flag takes that has no list of words is completed as a file's name.
#include <algorithm>
#include <string_view>
#include <vector>

#include "app/command_pages.h"
#include "base/text.h"

namespace shoal {
namespace {

/// The help up to where details begin: "Port of the HTTP API (default 8000)" -> "Port of the HTTP API".
std::string FirstClause(const std::string& help) {
  size_t end = help.size();
  for (const std::string_view mark : {" (", ": ", "; ", ". "}) end = std::min(end, help.find(mark));
  return help.substr(0, end);
}

std::string Replaced(std::string_view text, char what, std::string_view by) {
  std::string out;
  for (const char c : text) c == what ? out.append(by) : out.append(1, c);
  return out;
}

/// In single quotes, for bash and zsh.
std::string Quoted(std::string_view text) { return "'" + Replaced(text, '\'', "'\\''") + "'"; }

std::vector<std::string> NamesOf(const std::vector<CommandText>& commands) {
  std::vector<std::string> names;
  for (const CommandText& command : commands) names.push_back(command.name);
  return names;
}

std::vector<std::string> FlagNames(const CommandText& command) {
  std::vector<std::string> names;
  for (const FlagText& flag : command.flags) {
    if (!flag.positional) names.insert(names.end(), flag.names.begin(), flag.names.end());
  }
  return names;
}

/// The words that stand where no flag does: subcommands, or what a positional argument takes.
std::vector<std::string> PlainWords(const CommandText& command) {
  std::vector<std::string> words = NamesOf(command.commands);
  for (const FlagText& flag : command.flags) {
    if (flag.positional) words.insert(words.end(), flag.choices.begin(), flag.choices.end());
  }
  return words;
}

/// Calls `visit(command, path)` for the command and all below it; the program's path is "", others' are "token create".
template <typename Visit>
void ForEachCommand(const CommandText& command, const std::string& path, const Visit& visit) {
  visit(command, path);
  for (const CommandText& one : command.commands) {
    ForEachCommand(one, path.empty() ? one.name : path + " " + one.name, visit);
  }
}

/// Of bash: which command the line names so far, as cases of "PATH:WORD".
std::string BashPaths(const CommandText& program) {
  std::string cases;
  ForEachCommand(program, "", [&](const CommandText& command, const std::string& path) {
    for (const CommandText& one : command.commands) {
      const std::string whole = path.empty() ? one.name : path + " " + one.name;
      cases += "      " + Quoted(path + ":" + one.name) + ") path=" + Quoted(whole) + " ;;\n";
    }
  });
  return cases;
}

/// Of bash: what the flag before the cursor takes, as cases of "PATH:FLAG".
std::string BashValues(const CommandText& program) {
  std::string cases;
  ForEachCommand(program, "", [&](const CommandText& command, const std::string& path) {
    std::vector<std::string> any;
    for (const FlagText& flag : command.flags) {
      if (flag.positional || !flag.takes_value) continue;
      std::vector<std::string> patterns;
      for (const std::string& name : flag.names) patterns.push_back(Quoted(path + ":" + name));
      if (flag.choices.empty()) {
        any.insert(any.end(), patterns.begin(), patterns.end());
      } else {
        cases += "    " + Join(patterns, " | ") + ") words=" + Quoted(Join(flag.choices, " ")) + " ;;\n";
      }
    }
    if (!any.empty()) cases += "    " + Join(any, " | ") + ") return ;;\n";
  });
  return cases;
}

std::string BashWords(const CommandText& program) {
  std::string cases;
  ForEachCommand(program, "", [&](const CommandText& command, const std::string& path) {
    cases += "      " + Quoted(path) + ") flags=" + Quoted(Join(FlagNames(command), " ")) +
             " words=" + Quoted(Join(PlainWords(command), " ")) + " ;;\n";
  });
  return cases;
}

constexpr char kBashHead[] = R"(# bash completion for shoal. Made by: shoal completion bash
_shoal() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} path= flags= words= i
  COMPREPLY=()
  # bash takes "--flag=value" for three words.
  if [[ $current == = ]]; then
    current=
  elif [[ $before == = ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case "$path:${COMP_WORDS[i]}" in
)";

// A flag of the program's own may stand anywhere.
constexpr char kBashValues[] = R"(    esac
  done
  [[ $before == --log-level ]] && path=
  case "$path:$before" in
)";

constexpr char kBashWords[] = R"(  esac
  if [[ -z $words ]]; then
    case "$path" in
)";

constexpr char kBashEnd[] = R"(    esac
    [[ $current == -* ]] && words=$flags
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _shoal shoal
)";

/// Text within a specification of zsh's _arguments, where brackets and colons part it.
std::string ZshText(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("[]:\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string ZshAction(const FlagText& flag) {
  return flag.choices.empty() ? "_files" : "(" + Join(flag.choices, " ") + ")";
}

std::string ZshArguments(const CommandText& command) {
  std::string lines;
  const auto add = [&](const std::string& specification) { lines += " \\\n    " + Quoted(specification); };
  for (const FlagText& flag : command.flags) {
    const std::string help = ZshText(FirstClause(flag.help));
    if (flag.positional) {
      if (command.commands.empty())
        add((flag.repeatable ? "*:" : ":") + ZshText(flag.names.front()) + ":" + ZshAction(flag));
      continue;
    }
    for (const std::string& name : flag.names) {
      add((flag.repeatable ? "*" : "") + name + "[" + help + "]" +
          (flag.takes_value ? ":value:" + ZshAction(flag) : ""));
    }
  }
  if (command.commands.empty()) return lines;
  std::string choices;
  for (const CommandText& one : command.commands) {
    choices += (choices.empty() ? "" : " ") + one.name +
               "\\:" + Replaced(Replaced(ZshText(FirstClause(one.help)), '"', ""), ' ', "\\ ");
  }
  add(":command:((" + choices + "))");
  add("*::argument:->rest");
  return lines;
}

std::string ZshFunction(const CommandText& command, const std::string& path) {
  const std::string name = path.empty() ? "_shoal" : "_shoal_" + Replaced(path, ' ', "_");
  std::string text = name +
                     "() {\n  local context state state_descr line\n  typeset -A opt_args\n  _arguments -C" +
                     ZshArguments(command) + "\n";
  if (!command.commands.empty()) {
    text += "  [[ $state == rest ]] || return\n  case $words[1] in\n";
    for (const CommandText& one : command.commands)
      text += "    " + one.name + ") " + name + "_" + one.name + " ;;\n";
    text += "  esac\n";
  }
  return text + "}\n";
}

std::string FishText(std::string_view text) {
  return "'" + Replaced(Replaced(text, '\\', "\\\\"), '\'', "\\'") + "'";
}

/// When the line is at this command: its words stand there, and those of its subcommands do not.
std::string FishCondition(const CommandText& command, const std::string& path) {
  if (path.empty()) return "__fish_use_subcommand";
  std::vector<std::string> parts;
  for (const std::string& word : Split(path, ' ')) parts.push_back("__fish_seen_subcommand_from " + word);
  if (!command.commands.empty())
    parts.push_back("not __fish_seen_subcommand_from " + Join(NamesOf(command.commands), " "));
  return Join(parts, "; and ");
}

std::string FishFlag(const FlagText& flag, const std::string& condition) {
  std::string line = "complete -c shoal -n " + FishText(condition);
  for (const std::string& name : flag.names)
    line += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  if (flag.takes_value) {
    line += flag.choices.empty() ? " -r -F" : " -x -a " + FishText(Join(flag.choices, " "));
  }
  return line + " -d " + FishText(FirstClause(flag.help)) + "\n";
}

}  // namespace

std::string BashCompletion(const CommandText& program) {
  return kBashHead + BashPaths(program) + kBashValues + BashValues(program) + kBashWords +
         BashWords(program) + kBashEnd;
}

std::string ZshCompletion(const CommandText& program) {
  std::string text = "#compdef shoal\n# zsh completion for shoal. Made by: shoal completion zsh\n";
  ForEachCommand(program, "", [&](const CommandText& command, const std::string& path) {
    text += ZshFunction(command, path);
  });
  // As a file of $fpath it is the function itself; a shell that reads it by `source` is told of the function.
  return text + "if [[ ${funcstack[1]} == _shoal ]]; then _shoal \"$@\"; else compdef _shoal shoal; fi\n";
}

std::string FishCompletion(const CommandText& program) {
  std::string text = "# fish completion for shoal. Made by: shoal completion fish\n";
  ForEachCommand(program, "", [&](const CommandText& command, const std::string& path) {
    const std::string condition = FishCondition(command, path);
    for (const CommandText& one : command.commands) {
      text += "complete -c shoal -f -n " + FishText(condition) + " -a " + one.name + " -d " +
              FishText(FirstClause(one.help)) + "\n";
    }
    for (const FlagText& flag : command.flags) {
      if (!flag.positional) {
        text += FishFlag(flag, condition);
      } else if (!flag.choices.empty()) {
        text += "complete -c shoal -f -n " + FishText(condition) + " -a " +
                FishText(Join(flag.choices, " ")) + "\n";
      }
    }
  });
  return text;
}

}  // namespace shoal
