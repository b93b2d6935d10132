// base/process.h where the kernel is Linux.
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>

#include "base/process.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
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

void NameThread(const char* name) {
  static thread_local const char* named = nullptr;
  if (std::exchange(named, name) != name) pthread_setname_np(pthread_self(), name);
}

void YieldToOtherThreads() {
  constexpr int kNice = 6;
  (void)setpriority(PRIO_PROCESS, 0, kNice);  // Of the thread alone, on Linux.
}

std::string OwnProgram() { return "/proc/self/exe"; }

#if defined(__x86_64__)
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

#if defined(__aarch64__)
bool HasArmDotProduct() {
  constexpr unsigned long kAsimdDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kAsimdDotProduct) != 0;
}
bool HasArmInt8MatrixProduct() {
  constexpr unsigned long kInt8MatrixProduct = 1ul << 13;  // HWCAP2_I8MM
  return (getauxval(AT_HWCAP2) & kInt8MatrixProduct) != 0;
}
#else
bool HasArmDotProduct() { return false; }
bool HasArmInt8MatrixProduct() { return false; }
#endif

}  // namespace shoal
