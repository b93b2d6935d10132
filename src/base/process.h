// What the system says of this process.
#pragma once

#include <cstdint>

namespace shoal {

/// Resident memory in bytes; 0 where the system does not tell.
int64_t ResidentBytes();

/// The most that it ever was in this process; 0 where the system does not tell.
int64_t PeakResidentBytes();

/// What all threads of this process have computed so far, in seconds: themselves, and the system for them.
struct CpuTime {
  double user_s = 0;
  double system_s = 0;

  CpuTime operator-(const CpuTime& earlier) const {
    return {user_s - earlier.user_s, system_s - earlier.system_s};
  }
};
CpuTime ProcessCpuTime();

/// How many descriptors (files, sockets) this process may have open.
int64_t DescriptorLimit();

/// Raises that limit as far as the system lets this process: distributions start processes with 1,024,
/// because of select(), which nobody here calls. Returns the limit then in force.
int64_t RaiseDescriptorLimit();

/// Whether this process may multiply 8-bit tiles (AMX) on this CPU. Linux saves tiles only for processes that
/// ask, so this asks for all threads; no where the CPU has no tiles, the kernel is older than 5.16, or it
/// says no.
bool MayUseAmxInt8();

}  // namespace shoal
