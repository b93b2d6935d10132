// `shoal health`.
#pragma once

#include "app/command.h"

namespace shoal {

Command AddHealthCommand(Flags root);

}  // namespace shoal
