// `shoal manual`, `shoal completion`.
#pragma once

#include "app/command.h"

namespace shoal {

/// Both write what is declared below `root` when they run.
Command AddManualCommand(Flags root);
Command AddCompleteCommand(Flags root);

}  // namespace shoal
