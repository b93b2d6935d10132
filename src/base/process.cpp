#include "base/process.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

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

CpuTime ProcessCpuTime() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return {seconds(usage.ru_utime), seconds(usage.ru_stime)};
}

void NameThread(const char* name) {
  static thread_local const char* named = nullptr;
  if (std::exchange(named, name) != name) pthread_setname_np(pthread_self(), name);
}

void YieldToOtherThreads() {
  constexpr int kNice = 6;
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // Of the thread alone, on Linux.
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

#if defined(__x86_64__) && defined(__linux__)
bool MayUseAmxInt8() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kTileAndInt8 = (1u << 24) | (1u << 25);
  if ((edx & kTileAndInt8) != kTileAndInt8) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool MayUseAmxInt8() { return false; }
#endif

}  // namespace shoal
