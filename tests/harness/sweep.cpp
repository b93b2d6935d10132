#include "harness/sweep.h"

#include <cstdlib>

namespace shoal {

bool SweepsAllFamilies() { return std::getenv("SHOAL_ALL_FAMILIES") != nullptr; }

}  // namespace shoal
