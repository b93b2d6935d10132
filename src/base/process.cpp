#include "base/process.h"

#include <sys/resource.h>

#include <algorithm>

namespace shoal {

CpuTime ProcessCpuTime() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return {seconds(usage.ru_utime), seconds(usage.ru_stime)};
}

int64_t DescriptorLimit() {
  constexpr rlim_t kMany = 1 << 20;  // Stands for "unlimited" and for larger limits.
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;  // The smallest default of POSIX systems.
  return static_cast<int64_t>(std::min(limit.rlim_cur, kMany));
}

int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);  // If refused (macOS, if unlimited), the old limit stays.
  }
  return DescriptorLimit();
}

}  // namespace shoal
