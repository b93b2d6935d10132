#include "cpu/cgroup.h"

#include <algorithm>
#include <sstream>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "cpu/read_system_file.h"

namespace shoal {
namespace {

/// The most levels that are followed: far more than any system nests.
constexpr int kLevelsMax = 64;

/// One line of /proc/self/mountinfo of a cgroup file system.
struct Mount {
  std::string root;   ///< The group that the mount shows, "/" for the whole tree.
  std::string point;  ///< Where it is mounted.
  bool v2 = false;
  std::vector<std::string> controllers;  ///< v1 only.

  bool has(std::string_view controller) const {
    return v2 || std::ranges::find(controllers, controller) != controllers.end();
  }
};

/// Spaces and backslashes of paths are written as \040 and \134.
std::string Unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      int code = 0;
      for (size_t d = 1; d <= 3; ++d) code = code * 8 + (text[i + d] - '0');
      out.push_back(static_cast<char>(code));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

/// "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw"
std::vector<Mount> Mounts(const std::string& root) {
  std::vector<Mount> mounts;
  const std::optional<std::string> text = ReadSystemText(root + "/proc/self/mountinfo");
  if (!text.has_value()) return {{.root = "/", .point = "/sys/fs/cgroup", .v2 = true}};
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    const size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    const std::vector<std::string> before = Split(line.substr(0, separator), ' ');
    const std::vector<std::string> after = Split(line.substr(separator + 3), ' ');
    if (before.size() < 5 || after.size() < 3 || !(after[0] == "cgroup" || after[0] == "cgroup2")) continue;
    mounts.push_back({.root = Unescape(before[3]),
                      .point = Unescape(before[4]),
                      .v2 = after[0] == "cgroup2",
                      .controllers = Split(after[2], ',')});
  }
  return mounts;
}

/// The group of this process in a v1 hierarchy with this controller, or in v2 ("").
std::optional<std::string> GroupOf(const std::string& root, std::string_view controller) {
  std::istringstream lines(
      ReadSystemText(root + "/proc/self/cgroup").value_or(controller.empty() ? "0::/" : ""));
  for (std::string line; std::getline(lines, line);) {  // "4:memory,cpu:/some/group"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    const std::vector<std::string> list = Split(names, ',');
    const bool found = controller.empty() ? names.empty() : std::ranges::find(list, controller) != list.end();
    if (found) return line.substr(second + 1);
  }
  return std::nullopt;
}

/// The folders of the group in this mount and of all groups around it, the innermost first. A group that the mount does not
/// show (another namespace's view) gives the mount itself.
std::vector<std::string> Levels(const Mount& mount, const std::string& group) {
  std::string inside;
  const std::string shown = mount.root == "/" ? "" : mount.root;
  if (group.starts_with(shown + "/") && group.find("/..") == std::string::npos)
    inside = group.substr(shown.size());
  while (inside.ends_with('/')) inside.pop_back();
  std::vector<std::string> folders;
  for (int level = 0; level < kLevelsMax; ++level) {
    folders.push_back(mount.point + inside);
    if (inside.empty()) break;
    inside.resize(inside.rfind('/'));
  }
  return folders;
}

/// The lesser of what is there.
template <typename T>
void Lower(std::optional<T>& least, std::optional<T> value) {
  if (value.has_value() && (!least.has_value() || *value < *least)) least = value;
}

std::optional<double> Quota(const std::string& folder, bool v2) {
  int64_t quota = 0;
  int64_t period = 0;
  if (v2) {  // "max 100000" or "150000 100000"
    std::istringstream words(ReadSystemText(folder + "/cpu.max").value_or(""));
    if (!(words >> quota >> period)) return std::nullopt;
  } else {  // -1: no quota.
    quota = ReadSystemInteger(folder + "/cpu.cfs_quota_us").value_or(-1);
    period = ReadSystemInteger(folder + "/cpu.cfs_period_us").value_or(0);
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<double>(quota) / static_cast<double>(period);
}

struct MemoryOfGroup {
  std::optional<int64_t> limit;
  std::optional<int64_t> left;
};

MemoryOfGroup Memory(const std::string& folder, bool v2) {
  MemoryOfGroup memory;
  std::optional<int64_t> used;
  if (v2) {
    memory.limit = ReadSystemInteger(folder + "/memory.max");  // "max": none.
    Lower(memory.limit, ReadSystemInteger(folder + "/memory.high"));
    used = ReadSystemInteger(folder + "/memory.current");
  } else {
    memory.limit = ReadSystemInteger(folder + "/memory.limit_in_bytes");
    used = ReadSystemInteger(folder + "/memory.usage_in_bytes");
  }
  // v1 says "none" by a number near 2^63, which no machine has.
  constexpr int64_t kNone = int64_t{1} << 60;
  if (memory.limit.has_value() && (*memory.limit < 0 || *memory.limit >= kNone)) memory.limit.reset();
  if (!memory.limit.has_value()) return memory;
  const int64_t files =
      ReadSystemField(folder + "/memory.stat", v2 ? "inactive_file" : "total_inactive_file").value_or(0);
  memory.left = std::max<int64_t>(0, *memory.limit - std::max<int64_t>(0, used.value_or(0) - files));
  return memory;
}

}  // namespace

CgroupLimits ReadCgroupLimits(const std::string& root) {
  CgroupLimits limits;
  for (const Mount& mount : Mounts(root)) {
    for (const std::string_view controller : {"cpu", "memory"}) {
      if (!mount.has(controller)) continue;
      const std::optional<std::string> group = GroupOf(root, mount.v2 ? "" : controller);
      if (!group.has_value()) continue;
      for (const std::string& level : Levels(mount, *group)) {
        const std::string folder = root + level;
        if (controller == "cpu") {
          Lower(limits.cpus, Quota(folder, mount.v2));
        } else {
          const MemoryOfGroup memory = Memory(folder, mount.v2);
          Lower(limits.memory_bytes, memory.limit);
          Lower(limits.memory_left_bytes, memory.left);
        }
      }
    }
  }
  return limits;
}

int ThreadsFedBy(double quota_cpus) {
  constexpr double kForgiven = 0.25;
  constexpr double kThreadsMax = 4096;
  return static_cast<int>(std::clamp(quota_cpus + kForgiven, 1.0, kThreadsMax));
}

}  // namespace shoal
