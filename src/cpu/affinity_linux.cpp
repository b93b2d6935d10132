// cpu/affinity.h where the kernel is Linux.
#include <sched.h>

#include <cstddef>

#include "cpu/affinity.h"

namespace shoal {

bool StayOnCpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

// Its scheduler puts busy threads onto fast cores by itself.
void PreferFastCores() {}

}  // namespace shoal
