// What the system says of this process.
#pragma once

#include <cstdint>

namespace shoal {

/// Resident memory in bytes; 0 where the system does not tell.
int64_t ResidentBytes();

/// The most that it ever was in this process; 0 where the system does not tell.
int64_t PeakResidentBytes();

}  // namespace shoal
