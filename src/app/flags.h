// Command-line flags: a thin layer over CLI11. Only flags.cpp includes that library's header, which takes a compiler
// four seconds and which leaves 120 kB of functions in every object file.
#pragma once

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace shoal {

/// A declared flag, to say more about it.
class Flag {
 public:
  explicit Flag(CLI::Option* option) : option_(option) {}

  Flag required() const;
  /// May be given without a value.
  Flag value_is_optional() const;
  /// Whether it was given, or its environment variable is set.
  bool given() const;
  /// Both at once are refused.
  Flag excludes(Flag other) const;
  /// Refused without the other.
  Flag needs(Flag other) const;
  /// Where the flag is not given, this environment variable is read.
  Flag envname(const char* variable) const;
  /// Several values may be given in one argument, separated by `separator`.
  Flag delimiter(char separator) const;
  /// Values in [low, high]; others are refused by name.
  Flag range(int low, int high) const;
  Flag range(double low, double high) const;
  Flag one_of(std::initializer_list<int> values) const;

 private:
  CLI::Option* option_;
};

/// A flag as it was declared, for pages about it.
struct FlagText {
  std::vector<std::string> names;  ///< "--lines", "-n"; of a positional argument its name alone.
  std::string help;
  std::string variable;  ///< Of the environment, which is read where it is not given; empty: none.
  std::vector<std::string> choices;  ///< The words that it takes; empty: whatever.
  bool positional = false;
  bool required = false;
  bool takes_value = false;
  bool repeatable = false;
};

/// The program, or one of its subcommands.
struct CommandText {
  std::string name;
  std::string help;
  std::vector<FlagText> flags;  ///< --help among them.
  std::vector<CommandText> commands;
};

/// The flags of the program or of one of its subcommands; a handle: copies declare flags of the same one.
class Flags {
 public:
  explicit Flags(CLI::App* app) : app_(app) {}

  Flags add_subcommand(const char* name, const char* help);
  /// `names`: "--name", or "--name,--older-name". `value` is set when the command line is parsed, and outlives that.
  /// Value: std::string, int32_t, int64_t, uint64_t, float, double, or a std::vector of strings or int64_t.
  template <typename Value>
  Flag add_option(const char* names, Value& value, const char* help);
  /// True where it is given.
  Flag add_flag(const char* names, bool& value, const char* help);
  /// Takes one of the words in `choices`; `value` becomes what stands beside it.
  template <typename Value>
  Flag add_choice(const char* names, Value& value, std::vector<std::pair<std::string, Value>> choices,
                  const char* help) {
    std::vector<std::string> words;
    for (const auto& choice : choices) words.push_back(choice.first);
    return add_words(
        names, std::move(words),
        [&value, choices = std::move(choices)](size_t index) { value = choices[index].second; }, help);
  }
  /// Asked when the subcommand's flags are parsed: names what is missing; "" where nothing is.
  void require(std::function<std::string()> missing);

  /// Whether the command line names this subcommand.
  bool parsed() const;
  std::string name() const;
  /// All that was declared so far.
  CommandText describe() const;

 private:
  Flag add_words(const char* names, std::vector<std::string> words, std::function<void(size_t)> chosen,
                 const char* help);

  CLI::App* app_;
};

/// The program's flags and subcommands.
class CommandLine {
 public:
  CommandLine(const char* name, const char* about, const std::string& version);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  Flags root();
  /// Sets what was declared. False: help, the version or an error was printed, and the program ends with `exit_code`.
  [[nodiscard]] bool parse(int argc, char** argv, int& exit_code);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace shoal
