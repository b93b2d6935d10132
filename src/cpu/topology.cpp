#include "cpu/topology.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

std::optional<std::string> ReadText(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<int64_t> ParseInteger(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::optional<int64_t> ReadInteger(const std::string& path) {
  const std::optional<std::string> text = ReadText(path);
  return text ? ParseInteger(*text) : std::nullopt;
}

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

// The cgroup's quota in CPUs, rounded up; nullopt if unlimited. The file of cgroup v2 holds "max 100000" or
// "150000 100000".
std::optional<int> QuotaCpus(const std::string& root) {
  const std::optional<std::string> text = ReadText(root + "/sys/fs/cgroup/cpu.max");
  if (!text) return std::nullopt;
  std::istringstream words(*text);
  int64_t quota = 0;
  int64_t period = 0;
  if (!(words >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<int>((quota + period - 1) / period);
}

std::string CpuName(const std::string& root) {
  const std::string text = ReadText(root + "/proc/cpuinfo").value_or("");
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
    const auto package = ReadInteger(folder + "physical_package_id");
    const auto core = ReadInteger(folder + "core_id");
    if (!package || !core) return static_cast<int>(cpus.size());
    cores.emplace(*package, *core);
  }
  return static_cast<int>(cores.size());
}

int64_t MemoryBytes(const std::string& root) {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  const auto limit = ReadInteger(root + "/sys/fs/cgroup/memory.max");  // "max" if unlimited.
  return limit ? std::min(bytes, *limit) : bytes;
}

// "48K", "2048K", "32M" -> bytes.
int64_t ParseCacheSize(const std::string& text) {
  const int64_t number = ParseInteger(text).value_or(0);
  if (text.find('K') != std::string::npos) return number << 10;
  if (text.find('M') != std::string::npos) return number << 20;
  return number;
}

void ReadCaches(const std::string& root, int cpu, Topology& topology) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder =
        fmt::format("{}/sys/devices/system/cpu/cpu{}/cache/index{}/", root, cpu, index);
    const auto level = ReadInteger(folder + "level");
    const auto type = ReadText(folder + "type");
    const auto size = ReadText(folder + "size");
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
    const auto first = ParseInteger(std::string_view(item).substr(0, dash));
    const auto last =
        dash == std::string::npos ? first : ParseInteger(std::string_view(item).substr(dash + 1));
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
  if (const auto quota = QuotaCpus(root)) {
    topology.cpus = std::min(topology.cpus, *quota);
    topology.cores = std::min(topology.cores, *quota);
  }
  topology.memory_bytes = MemoryBytes(root);
  if (!cpus.empty()) ReadCaches(root, cpus[0], topology);
  return topology;
}

}  // namespace shoal
