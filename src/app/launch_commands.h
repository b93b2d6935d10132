// The subcommands that start whole clusters: cmd_launch.cpp, cmd_host_agent.cpp, cmd_ring.cpp.
#pragma once

#include "app/command.h"

namespace shoal {

Command AddUpCommand(Flags root);
Command AddDownCommand(Flags root);
Command AddRestartCommand(Flags root);
Command AddStatusCommand(Flags root);
Command AddLogsCommand(Flags root);
Command AddTestCommand(Flags root);
Command AddHostAgentCommand(Flags root);
Command AddRingCommand(Flags root);

}  // namespace shoal
