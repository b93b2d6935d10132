// Counts the calls of the global operator new in test binaries that are built with count_allocations.cpp.
#pragma once

#include <cstdint>

namespace shoal {

/// The number of allocations of all threads since the start of the process.
int64_t Allocations();

}  // namespace shoal
