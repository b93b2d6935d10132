#include "base/process.h"

#include <unistd.h>

#include <fstream>

namespace shoal {

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  return statm >> total >> resident ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace shoal
