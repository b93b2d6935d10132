#include "app/machine_report.h"

#include <charconv>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "cpu/topology.h"
#include "kernels/kernels.h"

namespace shoal {
namespace {

constexpr int64_t kFileBytesMax = 1 << 16;

/// "MemTotal:  16000000 kB" of /proc/meminfo, in bytes; 0 where it is not there.
int64_t MemoryLine(const std::string& text, const std::string& key) {
  const size_t at = text.find(key + ":");
  if (at == std::string::npos) return 0;
  const size_t digits = text.find_first_of("0123456789", at);
  int64_t kib = 0;
  if (digits == std::string::npos) return 0;
  std::from_chars(text.data() + digits, text.data() + text.size(), kib);
  return kib * 1024;
}

/// "always [madvise] never": the word in brackets.
std::string Chosen(const std::string& text) {
  const size_t begin = text.find('[');
  const size_t end = text.find(']', begin);
  return begin == std::string::npos || end == std::string::npos ? ""
                                                                : text.substr(begin + 1, end - begin - 1);
}

}  // namespace

MachineReport ReadMachine(const std::string& root) {
  MachineReport report;
  const Topology machine = ReadTopology(root);
  const std::string memory = ReadTextFile(root + "/proc/meminfo", kFileBytesMax).value_or("");
  report.cpu_name = machine.cpu_name;
  report.cpus = machine.cpus;
  report.cores = machine.cores;
  // Of the whole machine; where there is no such file, there are no groups either that have less.
  report.memory_total = memory.empty() ? machine.memory_bytes : MemoryLine(memory, "MemTotal");
  report.memory_available =
      memory.empty() ? machine.memory_available_bytes : MemoryLine(memory, "MemAvailable");
  report.memory_limit = machine.memory_bytes;
  report.huge_pages =
      Chosen(ReadTextFile(root + "/sys/kernel/mm/transparent_hugepage/enabled", kFileBytesMax).value_or(""));
  report.descriptors = DescriptorLimit();
  const auto isa = ChooseIsa("");
  report.isa = isa.ok() ? std::string(IsaName(*isa)) : "reference";
  report.unix_s = UnixSeconds();
  return report;
}

}  // namespace shoal
