// Memory, CPU time, CPU permissions and the file of this process, as the operating system reports them. What systems
// report each in their own way is in process_linux.cpp and process_macos.cpp.
#pragma once

#include <cstdint>
#include <string>

namespace shoal {

/// Resident memory in bytes; 0 if the system does not report it.
int64_t ResidentBytes();

/// Peak resident memory of this process in bytes; 0 if the system does not report it.
int64_t PeakResidentBytes();

/// CPU time of all threads of this process so far, in seconds: in user mode and in the kernel.
struct CpuTime {
  double user_s = 0;
  double system_s = 0;

  CpuTime operator-(const CpuTime& earlier) const {
    return {user_s - earlier.user_s, system_s - earlier.system_s};
  }
};
CpuTime ProcessCpuTime();

/// Names the calling thread for `top -H`, debuggers and profilers. At most 15 bytes; costs nothing where it has that
/// name already. `name` must outlive the thread.
void NameThread(const char* name);

/// From now on the calling thread, and those that it starts, get a quarter of a core where others want all of it; on
/// macOS, what others leave, for the thread alone. For good: only the privileged may take it back.
void YieldToOtherThreads();

/// The number of descriptors (files, sockets) that this process may have open.
int64_t DescriptorLimit();

/// Raises that limit as far as the system permits. Distributions start processes with 1,024 because of
/// select(), which shoal does not use. Returns the limit then in force.
int64_t RaiseDescriptorLimit();

/// Whether this process may use AMX-INT8 on this CPU. Linux saves AMX tiles only for processes that request
/// it, so this call requests it for all threads. False if the CPU has no AMX, the kernel is older than 5.16,
/// or it refuses.
bool MayUseAmxInt8();

/// Whether this CPU has dot products, and matrix products, of 8-bit integers; false on CPUs other than 64-bit ARM.
bool HasArmDotProduct();
bool HasArmInt8MatrixProduct();

/// A path by which this program can be run again. On Linux it leads to this very file, also where another one has taken
/// its name. Empty if the system tells none.
std::string OwnProgram();

}  // namespace shoal
