// cpu/topology.h where the kernel is Linux.
#include "cpu/topology.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "cpu/cgroup.h"
#include "cpu/read_system_file.h"

namespace shoal {
namespace {

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::string CpuName(const std::string& root) {
  const std::string text = ReadSystemText(root + "/proc/cpuinfo").value_or("");
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  utsname name;
  return uname(&name) == 0 ? name.machine : "unknown";
}

int CountCores(const std::string& root, const std::vector<int>& cpus) {
  std::set<std::pair<int64_t, int64_t>> cores;  // (package, core)
  for (const int cpu : cpus) {
    const std::string folder = fmt::format("{}/sys/devices/system/cpu/cpu{}/topology/", root, cpu);
    const auto package = ReadSystemInteger(folder + "physical_package_id");
    const auto core = ReadSystemInteger(folder + "core_id");
    if (!package || !core) return static_cast<int>(cpus.size());
    cores.emplace(*package, *core);
  }
  return static_cast<int>(cores.size());
}

void ReadMemory(const std::string& root, const CgroupLimits& limits, Topology& topology) {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  if (const auto kib = ReadSystemField(root + "/proc/meminfo", "MemTotal:")) bytes = *kib << 10;
  topology.memory_bytes = std::min(bytes, limits.memory_bytes.value_or(bytes));
  const auto kib = ReadSystemField(root + "/proc/meminfo", "MemAvailable:");
  const int64_t available = kib ? *kib << 10 : topology.memory_bytes;
  topology.memory_available_bytes =
      std::min({topology.memory_bytes, available, limits.memory_left_bytes.value_or(available)});
}

/// How many of `cpus` are in a list such as "0-15,20".
int CountIn(const std::string& text, const std::vector<int>& cpus) {
  int count = 0;
  for (const std::string& item : Split(text.substr(0, text.find('\n')), ',')) {
    const size_t dash = item.find('-');
    const auto first = ParseSystemInteger(std::string_view(item).substr(0, dash));
    const auto last =
        dash == std::string::npos ? first : ParseSystemInteger(std::string_view(item).substr(dash + 1));
    if (!first || !last) continue;
    count +=
        static_cast<int>(std::ranges::count_if(cpus, [&](int cpu) { return cpu >= *first && cpu <= *last; }));
  }
  return count;
}

/// Intel lists both kinds of CPUs. ARM gives each CPU a capacity, of which the largest is 1024.
void ReadCoreKinds(const std::string& root, const std::vector<int>& cpus, Topology& topology) {
  if (const auto atoms = ReadSystemText(root + "/sys/devices/cpu_atom/cpus")) {
    topology.efficiency_cpus = CountIn(*atoms, cpus);
    return;
  }
  constexpr double kPerformanceShare = 0.8;
  std::vector<int64_t> capacities;
  for (const int cpu : cpus) {
    const auto capacity =
        ReadSystemInteger(fmt::format("{}/sys/devices/system/cpu/cpu{}/cpu_capacity", root, cpu));
    if (!capacity) return;
    capacities.push_back(*capacity);
  }
  if (capacities.empty()) return;
  const double least = kPerformanceShare * static_cast<double>(std::ranges::max(capacities));
  topology.efficiency_cpus = static_cast<int>(std::ranges::count_if(
      capacities, [&](int64_t capacity) { return static_cast<double>(capacity) < least; }));
}

// "48K", "2048K", "32M" -> bytes.
int64_t ParseCacheSize(const std::string& text) {
  const int64_t number = ParseSystemInteger(text).value_or(0);
  if (text.find('K') != std::string::npos) return number << 10;
  if (text.find('M') != std::string::npos) return number << 20;
  return number;
}

void ReadCaches(const std::string& root, int cpu, Topology& topology) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder =
        fmt::format("{}/sys/devices/system/cpu/cpu{}/cache/index{}/", root, cpu, index);
    const auto level = ReadSystemInteger(folder + "level");
    const auto type = ReadSystemText(folder + "type");
    const auto size = ReadSystemText(folder + "size");
    if (!level || !type || !size) return;
    if (type->starts_with("Instruction")) continue;
    if (*level == 1) topology.l1d_bytes = ParseCacheSize(*size);
    if (*level == 2) topology.l2_bytes = ParseCacheSize(*size);
    if (*level == 3) topology.l3_bytes = ParseCacheSize(*size);
  }
}

}  // namespace

absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text) {
  const std::vector<int> allowed = AllowedCpus();
  std::vector<int> cpus;
  if (text.empty()) return InvalidArgument("CPUs: expected a list such as 0-3,8, got an empty text");
  for (const std::string& item : Split(text, ',')) {
    const size_t dash = item.find('-');
    const auto first = ParseSystemInteger(std::string_view(item).substr(0, dash));
    const auto last =
        dash == std::string::npos ? first : ParseSystemInteger(std::string_view(item).substr(dash + 1));
    if (!first || !last || *first < 0 || *last < *first) {
      return InvalidArgument("CPUs '{}': expected a list such as 0-3,8, got '{}' in it", text, item);
    }
    for (int64_t cpu = *first; cpu <= *last; ++cpu) {
      if (std::find(allowed.begin(), allowed.end(), cpu) == allowed.end()) {
        return InvalidArgument("CPUs '{}': this process may not use CPU {}; it may use {}", text, cpu,
                               fmt::join(allowed, ","));
      }
      if (std::find(cpus.begin(), cpus.end(), cpu) != cpus.end()) {
        return InvalidArgument("CPUs '{}': CPU {} is named twice", text, cpu);
      }
      cpus.push_back(static_cast<int>(cpu));
    }
  }
  return cpus;
}

Topology ReadTopology(const std::string& root) {
  Topology topology;
  const std::vector<int> cpus = AllowedCpus();
  topology.cpu_name = CpuName(root);
  topology.cpus = std::max(1, static_cast<int>(cpus.size()));
  topology.cores = std::max(1, CountCores(root, cpus));
  const CgroupLimits limits = ReadCgroupLimits(root);
  if (limits.cpus.has_value()) {
    topology.quota_cpus = *limits.cpus;
    topology.cpus = std::min(topology.cpus, ThreadsFedBy(*limits.cpus));
    topology.cores = std::min(topology.cores, ThreadsFedBy(*limits.cpus));
  }
  ReadMemory(root, limits, topology);
  ReadCoreKinds(root, cpus, topology);
  if (!cpus.empty()) ReadCaches(root, cpus[0], topology);
  return topology;
}

}  // namespace shoal
