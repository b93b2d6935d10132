// `shoal`: one binary for coordinator, worker and tools. Each subcommand is a file of this folder.
#include <cstdio>
#include <string>
#include <vector>

#include "app/cmd_drain.h"
#include "app/command.h"
#include "app/launch_commands.h"
#include "base/log.h"
#include "base/log_name.h"
#include "base/process.h"
#include "base/status.h"

int main(int argc, char** argv) {
  using namespace shoal;
  CommandLine line("shoal",
                   "shoal serves large language models on a handful of machines: one answer, any cluster.",
                   std::string("shoal ") + kShoalVersion);
  Flags root = line.root();
  std::string log_level = "info";
  root.add_option("--log-level", log_level, "debug, info, warning or error").envname("SHOAL_LOG_LEVEL");

  const std::vector<Command> commands = {
      AddServeCommand(root),     AddWorkerCommand(root),   AddRunCommand(root),     AddChatCommand(root),
      AddPlanCommand(root),      AddInspectCommand(root),  AddLogitsCommand(root),  AddSynthCommand(root),
      AddBenchCommand(root),     AddCacheCommand(root),    AddConvertCommand(root), AddEvalCommand(root),
      AddLoadCommand(root),      AddTokenizeCommand(root), AddUpCommand(root),      AddDownCommand(root),
      AddRestartCommand(root),   AddStatusCommand(root),   AddLogsCommand(root),    AddTestCommand(root),
      AddHostAgentCommand(root), AddRingCommand(root),     AddTokenCommand(root),   AddDoctorCommand(root),
      AddProfileCommand(root),   AddDrainCommand(root),    AddCertCommand(root)};
  int exit_code = 0;
  if (!line.parse(argc, argv, exit_code)) return exit_code;
  if (!SetLogLevel(log_level)) {
    std::fprintf(stderr, "shoal: --log-level '%s': expected debug, info, warning or error\n",
                 log_level.c_str());
    return 2;
  }
  RaiseDescriptorLimit();
  for (const Command& command : commands) {
    if (!command.app.parsed()) continue;
    const absl::Status status = command.run();
    if (status.ok()) return 0;
    if (HasProcessLogName()) {
      LogError("{}", Message(status));
    } else {
      std::fprintf(stderr, "shoal %s: %s\n", command.app.name().c_str(), Message(status).c_str());
    }
    return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  return 2;
}
