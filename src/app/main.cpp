// `shoal`: one binary for coordinator, worker and tools. Each subcommand is a file of this folder.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "app/cmd_drain.h"
#include "app/cmd_health.h"
#include "app/cmd_pages.h"
#include "app/command.h"
#include "app/launch_commands.h"
#include "base/log.h"
#include "base/log_format.h"
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
  std::string log_format = "text";
  root.add_option("--log-level", log_level, "debug, info, warning or error").envname("SHOAL_LOG_LEVEL");
  root.add_option("--log-format", log_format, "text, or json: each line of the log is an object")
      .envname("SHOAL_LOG_FORMAT");

  const std::vector<Command> commands = {
      AddServeCommand(root),     AddWorkerCommand(root),   AddRunCommand(root),     AddChatCommand(root),
      AddPlanCommand(root),      AddInspectCommand(root),  AddLogitsCommand(root),  AddSynthCommand(root),
      AddBenchCommand(root),     AddCacheCommand(root),    AddConvertCommand(root), AddEvalCommand(root),
      AddLoadCommand(root),      AddTokenizeCommand(root), AddUpCommand(root),      AddDownCommand(root),
      AddRestartCommand(root),   AddStatusCommand(root),   AddLogsCommand(root),    AddTestCommand(root),
      AddHostAgentCommand(root), AddRingCommand(root),     AddTokenCommand(root),   AddDoctorCommand(root),
      AddProfileCommand(root),   AddDrainCommand(root),    AddCertCommand(root),    AddHealthCommand(root),
      AddManualCommand(root),    AddCompleteCommand(root), AddTopCommand(root)};
  int exit_code = 0;
  if (!line.parse(argc, argv, exit_code)) return exit_code;
  if (!SetLogLevel(log_level)) {
    std::fprintf(stderr, "shoal: --log-level '%s': expected debug, info, warning or error\n",
                 log_level.c_str());
    return 2;
  }
  if (!SetLogFormat(log_format)) {
    std::fprintf(stderr, "shoal: --log-format '%s': expected text or json\n", log_format.c_str());
    return 2;
  }
  // For the program that takes this one's place (`shoal ring`), or that it starts on this machine.
  setenv("SHOAL_LOG_LEVEL", log_level.c_str(), 1);
  setenv("SHOAL_LOG_FORMAT", log_format.c_str(), 1);
  RaiseDescriptorLimit();
  for (const Command& command : commands) {
    if (!command.app.parsed()) continue;
    const absl::Status status = command.run();
    if (status.ok()) return 0;
    if (HasProcessLogName() || LogWritesJson()) {
      LogError("{}", Message(status));
    } else {
      std::fprintf(stderr, "shoal %s: %s\n", command.app.name().c_str(), Message(status).c_str());
    }
    return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  return 2;
}
