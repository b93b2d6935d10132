// cpu/topology.h on macOS: sysctl and Mach. Memory is one for all processors of the machine ("unified").
#include <mach/mach.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/status.h"
#include "base/sysctl.h"
#include "cpu/topology.h"

namespace shoal {
namespace {

int CountOf(const char* name, int otherwise) {
  return static_cast<int>(std::max<int64_t>(0, SystemNumber(name).value_or(otherwise)));
}

std::string CpuName() {
  if (std::optional<std::string> name = SystemText("machdep.cpu.brand_string")) return *std::move(name);
  utsname name = {};
  return uname(&name) == 0 ? name.machine : "unknown";
}

/// What nobody would have to be asked for: all but memory of programs, what of it is compressed, and what the kernel holds.
/// Pages of files, and those that programs gave up for whoever wants them, count as unused.
std::optional<int64_t> AvailableMemory(int64_t all) {
  vm_statistics64_data_t pages = {};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  const mach_port_t host = mach_host_self();
  const kern_return_t failed =
      host_statistics64(host, HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count);
  (void)mach_port_deallocate(mach_task_self(), host);
  if (failed != KERN_SUCCESS) return std::nullopt;
  const int64_t used = int64_t{pages.internal_page_count} - int64_t{pages.purgeable_count} +
                       int64_t{pages.wire_count} + int64_t{pages.compressor_page_count};
  return std::clamp<int64_t>(all - used * int64_t{sysconf(_SC_PAGESIZE)}, 0, all);
}

}  // namespace

absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text) {
  return FailedPrecondition(
      "CPUs '{}': macOS lets no program choose the CPUs of its threads; leave the choice out, and say with "
      "--threads how "
      "many there are",
      text);
}

Topology ReadTopology(const std::string&) {
  Topology topology;
  topology.cpu_name = CpuName();
  topology.cpus = std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  // Level 0 has the fastest cores: all that an Intel Mac has, the P cores of Apple silicon.
  topology.cores = std::clamp(CountOf("hw.perflevel0.physicalcpu", CountOf("hw.physicalcpu", topology.cpus)),
                              1, topology.cpus);
  topology.efficiency_cpus = std::min(CountOf("hw.perflevel1.logicalcpu", 0), topology.cpus);
  topology.memory_bytes = SystemNumber("hw.memsize").value_or(0);
  topology.memory_available_bytes = AvailableMemory(topology.memory_bytes).value_or(topology.memory_bytes);
  topology.l1d_bytes =
      SystemNumber("hw.perflevel0.l1dcachesize").value_or(SystemNumber("hw.l1dcachesize").value_or(0));
  topology.l2_bytes =
      SystemNumber("hw.perflevel0.l2cachesize").value_or(SystemNumber("hw.l2cachesize").value_or(0));
  topology.l3_bytes = SystemNumber("hw.l3cachesize").value_or(0);
  return topology;
}

}  // namespace shoal
