// What is said of this machine to whoever asks how it is.
#pragma once

#include <string>

#include "cluster/control.h"

namespace shoal {

/// Of this process's machine, now; without a model. `root` is put in front of every path, for tests.
MachineReport ReadMachine(const std::string& root = "");

}  // namespace shoal
