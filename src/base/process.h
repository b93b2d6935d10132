// What the system says of this process.
#pragma once

#include <cstdint>

namespace shoal {

/// Resident memory in bytes; 0 where the system does not tell.
int64_t ResidentBytes();

/// The most that it ever was in this process; 0 where the system does not tell.
int64_t PeakResidentBytes();

/// Whether this process may multiply 8-bit tiles (AMX) on this CPU. Linux saves tiles only for processes that
/// ask, so this asks for all threads; no where the CPU has no tiles, the kernel is older than 5.16, or it
/// says no.
bool MayUseAmxInt8();

}  // namespace shoal
