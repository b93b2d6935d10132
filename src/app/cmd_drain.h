// `shoal drain`.
#pragma once

#include "app/command.h"

namespace shoal {

Command AddDrainCommand(Flags root);

}  // namespace shoal
