// What the control groups of this process allow it, over all levels and in both versions of cgroups.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace shoal {

/// A group is bound by its own limits and by those of every group that it is in, so the least counts.
struct CgroupLimits {
  std::optional<double> cpus;           ///< The least CPU quota, in CPUs; nothing if there is none.
  std::optional<int64_t> memory_bytes;  ///< The least memory limit.
  /// The least of limit minus use over all levels, where use leaves out file pages that the system can drop. Not below 0.
  std::optional<int64_t> memory_left_bytes;
};

/// Follows the groups of /proc/self/cgroup upwards through the mounts of /proc/self/mountinfo: cgroup v2 (cpu.max,
/// memory.max, memory.high), v1 (cpu.cfs_quota_us, memory.limit_in_bytes), and both at once. Without a readable mountinfo,
/// /sys/fs/cgroup is taken for a v2 group. What cannot be read limits nothing. `root` is put in front of every path, for
/// tests.
CgroupLimits ReadCgroupLimits(const std::string& root = "");

/// Threads that a quota keeps running: whole CPUs, where a quarter that lacks is forgiven; at least 1. A thread more would
/// be stopped in the middle of a step, and its team waits for it.
int ThreadsFedBy(double quota_cpus);

}  // namespace shoal
