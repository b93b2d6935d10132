// Counts calls of the global operator new, in a test binary that has count_allocations.cpp among its sources.
#pragma once

#include <cstdint>

namespace shoal {

/// Since the start, of all threads.
int64_t Allocations();

}  // namespace shoal
