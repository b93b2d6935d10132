// `shoal`: one binary for coordinator, worker and tools. Each subcommand is a file of this folder.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "app/command.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

int main(int argc, char** argv) {
  using namespace shoal;
  CLI::App root{"shoal serves large language models on a handful of machines: one answer, any cluster."};
  root.name("shoal");
  root.require_subcommand(1);
  root.set_version_flag("--version", std::string("shoal ") + kShoalVersion);
  std::string log_level = "info";
  root.add_option("--log-level", log_level, "debug, info, warning or error")->envname("SHOAL_LOG_LEVEL");
  root.fallthrough();

  const std::vector<Command> commands = {
      AddServeCommand(root), AddWorkerCommand(root),  AddRunCommand(root),     AddChatCommand(root),
      AddPlanCommand(root),  AddInspectCommand(root), AddLogitsCommand(root),  AddSynthCommand(root),
      AddBenchCommand(root), AddCacheCommand(root),   AddConvertCommand(root), AddEvalCommand(root)};
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return root.exit(error) == 0 ? 0 : 2;
  }
  if (!SetLogLevel(log_level)) {
    std::fprintf(stderr, "shoal: --log-level '%s': expected debug, info, warning or error\n",
                 log_level.c_str());
    return 2;
  }
  RaiseDescriptorLimit();
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    const absl::Status status = command.run();
    if (status.ok()) return 0;
    std::fprintf(stderr, "shoal %s: %s\n", command.app->get_name().c_str(), Message(status).c_str());
    return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  return 2;
}
