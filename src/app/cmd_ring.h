// `shoal ring`: becomes `shoal serve` on rank 0, and `shoal worker` on all others.
#pragma once

#include "app/command.h"

namespace shoal {

Command AddRingCommand(Flags root);

}  // namespace shoal
