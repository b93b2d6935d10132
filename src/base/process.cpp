#include "base/process.h"

#include <unistd.h>

#include <fstream>
#include <string>

namespace shoal {

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  return statm >> total >> resident ? resident * sysconf(_SC_PAGESIZE) : 0;
}

int64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == "VmHWM:") return status >> kib ? kib * 1024 : 0;
  }
  return 0;
}

}  // namespace shoal
