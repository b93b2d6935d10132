// base/process.h on macOS.
#include <mach-o/dyld.h>
#include <mach/mach.h>
#include <pthread.h>
#include <pthread/qos.h>
#include <sys/resource.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "base/process.h"
#include "base/sysctl.h"

namespace shoal {

int64_t ResidentBytes() {
  mach_task_basic_info info = {};
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  const kern_return_t failed =
      task_info(mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&info), &count);
  return failed == KERN_SUCCESS ? static_cast<int64_t>(info.resident_size) : 0;
}

int64_t PeakResidentBytes() {
  rusage usage = {};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? int64_t{usage.ru_maxrss}
                                             : 0;  // In bytes here; in KiB elsewhere.
}

void NameThread(const char* name) {
  static thread_local const char* named = nullptr;
  if (std::exchange(named, name) != name) pthread_setname_np(name);
}

// Niceness is of whole processes here. Threads of this class take what is left over, on E cores where there are some.
void YieldToOtherThreads() { (void)pthread_set_qos_class_self_np(QOS_CLASS_UTILITY, 0); }

std::string OwnProgram() {
  uint32_t size = 0;
  (void)_NSGetExecutablePath(nullptr, &size);  // Says how long it is.
  std::string path(size, '\0');
  if (_NSGetExecutablePath(path.data(), &size) != 0) return "";
  const std::unique_ptr<char, decltype(&std::free)> whole(realpath(path.c_str(), nullptr), &std::free);
  return whole == nullptr ? std::string(path.c_str()) : std::string(whole.get());
}

bool MayUseAmxInt8() { return false; }

bool HasArmDotProduct() { return SystemNumber("hw.optional.arm.FEAT_DotProd").value_or(0) != 0; }
bool HasArmInt8MatrixProduct() { return SystemNumber("hw.optional.arm.FEAT_I8MM").value_or(0) != 0; }

}  // namespace shoal
