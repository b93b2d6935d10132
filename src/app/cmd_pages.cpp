#include "app/cmd_pages.h"

#include <cstdio>

#include "app/command_pages.h"
#include "base/status.h"

namespace shoal {
namespace {

using CompletionWriter = std::string (*)(const CommandText& program);

absl::Status WriteOut(const std::string& text) {
  const bool written = std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  return written ? absl::OkStatus() : ResourceExhausted("standard output cannot be written");
}

}  // namespace

Command AddManualCommand(Flags root) {
  Flags app =
      root.add_subcommand("manual", "Print the manual page, as man(1) reads it: shoal manual | man -l -");
  return {app,
          [root] { return WriteOut(ManualPage(root.describe(), std::string("shoal ") + kShoalVersion)); }};
}

Command AddCompleteCommand(Flags root) {
  auto writer = std::make_shared<CompletionWriter>(nullptr);
  Flags app = root.add_subcommand(
      "completion", "Print a script that completes command lines: source <(shoal completion bash)");
  app.add_choice<CompletionWriter>(
         "shell", *writer, {{"bash", BashCompletion}, {"zsh", ZshCompletion}, {"fish", FishCompletion}},
         "The shell that reads it")
      .required();
  return {app, [writer, root] { return WriteOut((*writer)(root.describe())); }};
}

}  // namespace shoal
