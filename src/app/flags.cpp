#include "app/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/text.h"

namespace shoal {
namespace {

/// The words of a CLI::IsMember, which CLI11 tells only as the type of the value: "TEXT:{a,b}".
std::vector<std::string> ChoicesOf(const std::string& type) {
  const size_t open = type.find(":{");
  if (open == std::string::npos || !type.ends_with('}')) return {};
  return Split(type.substr(open + 2, type.size() - open - 3), ',');
}

FlagText Describe(const CLI::Option& option) {
  FlagText text;
  for (const std::string& name : option.get_lnames()) text.names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
  text.positional = option.get_positional();
  if (text.positional) text.names = {option.get_name(true, false)};
  text.help = option.get_description();
  text.variable = option.get_envname();
  text.choices = ChoicesOf(option.get_type_name());
  text.required = option.get_required();
  text.takes_value = option.get_items_expected_max() > 0;
  text.repeatable = option.get_items_expected_max() > 1;
  return text;
}

CommandText Describe(const CLI::App& app) {
  CommandText text{.name = app.get_name(), .help = app.get_description()};
  for (const CLI::Option* option : app.get_options({})) text.flags.push_back(Describe(*option));
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    text.commands.push_back(Describe(*command));
  }
  return text;
}

}  // namespace

Flag Flag::required() const {
  option_->required();
  return *this;
}

Flag Flag::value_is_optional() const {
  option_->expected(0, 1);
  return *this;
}

bool Flag::given() const { return option_->count() > 0; }

Flag Flag::excludes(Flag other) const {
  option_->excludes(other.option_);
  return *this;
}

Flag Flag::needs(Flag other) const {
  option_->needs(other.option_);
  return *this;
}

Flag Flag::envname(const char* variable) const {
  option_->envname(variable);
  return *this;
}

Flag Flag::delimiter(char separator) const {
  option_->delimiter(separator);
  return *this;
}

Flag Flag::range(int low, int high) const {
  option_->check(CLI::Range(low, high));
  return *this;
}

Flag Flag::range(double low, double high) const {
  option_->check(CLI::Range(low, high));
  return *this;
}

Flag Flag::one_of(std::initializer_list<int> values) const {
  option_->check(CLI::IsMember(std::vector<int>(values)));
  return *this;
}

Flags Flags::add_subcommand(const char* name, const char* help) {
  return Flags(app_->add_subcommand(name, help));
}

template <typename Value>
Flag Flags::add_option(const char* names, Value& value, const char* help) {
  return Flag(app_->add_option(names, value, help));
}
template Flag Flags::add_option(const char*, std::string&, const char*);
template Flag Flags::add_option(const char*, int32_t&, const char*);
template Flag Flags::add_option(const char*, int64_t&, const char*);
template Flag Flags::add_option(const char*, uint64_t&, const char*);
template Flag Flags::add_option(const char*, float&, const char*);
template Flag Flags::add_option(const char*, double&, const char*);
template Flag Flags::add_option(const char*, std::vector<std::string>&, const char*);
template Flag Flags::add_option(const char*, std::vector<int64_t>&, const char*);

Flag Flags::add_flag(const char* names, bool& value, const char* help) {
  return Flag(app_->add_flag(names, value, help));
}

Flag Flags::add_words(const char* names, std::vector<std::string> words, std::function<void(size_t)> chosen,
                      const char* help) {
  auto choose = [words, chosen = std::move(chosen)](const std::string& word) {
    const auto found = std::find(words.begin(), words.end(), word);
    if (found != words.end()) chosen(static_cast<size_t>(found - words.begin()));
  };
  return Flag(app_->add_option_function<std::string>(names, choose, help)->check(CLI::IsMember(words)));
}

void Flags::require(std::function<std::string()> missing) {
  app_->callback([missing = std::move(missing)] {
    if (const std::string what = missing(); !what.empty()) throw CLI::RequiredError(what);
  });
}

bool Flags::parsed() const { return app_->parsed(); }
std::string Flags::name() const { return app_->get_name(); }
CommandText Flags::describe() const { return Describe(*app_); }

CommandLine::CommandLine(const char* name, const char* about, const std::string& version)
    : app_(std::make_unique<CLI::App>(about)) {
  app_->name(name);
  app_->require_subcommand(1);
  app_->set_version_flag("--version", version);
  app_->fallthrough();
}

CommandLine::~CommandLine() = default;

Flags CommandLine::root() { return Flags(app_.get()); }

bool CommandLine::parse(int argc, char** argv, int& exit_code) {
  try {
    app_->parse(argc, argv);
    return true;
  } catch (const CLI::ParseError& error) {
    exit_code = app_->exit(error) == 0 ? 0 : 2;
    return false;
  }
}

}  // namespace shoal
