// CPUs, caches and memory of this machine: for the planner, the default number of threads, and benchmark
// reports.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

struct Topology {
  std::string cpu_name;  ///< "Intel(R) Xeon(R) ...", or the architecture if the system reports no name.
  int cpus = 1;          ///< Logical CPUs that this process may use, by affinity mask and cgroup quotas.
  int cores =
      1;  ///< Physical cores among them, or `cpus` if unknown; the default thread count. macOS: P cores.
  double quota_cpus = 0;  ///< The least CPU quota of its cgroups, in CPUs; 0: none.
  int efficiency_cpus =
      0;  ///< Of the CPUs that it may use by affinity, those that are slower by design (E cores).
  int64_t memory_bytes = 0;  ///< Physical memory, or the least limit of its cgroups if that is smaller.
  /// What of it nobody uses now, counting pages of files that the system can drop as unused.
  int64_t memory_available_bytes = 0;
  int64_t l1d_bytes = 0;  ///< Of one core; 0 if unknown, as for the other caches.
  int64_t l2_bytes = 0;   ///< As the system reports it for the first CPU.
  int64_t l3_bytes = 0;   ///< Of one socket.
};

/// Reads /proc, /sys and the affinity of the calling thread; what cannot be read keeps its default. `root` is
/// put in front of every path, for tests.
Topology ReadTopology(const std::string& root = "");

/// What weights and cache may take by default: the memory that is available, less a headroom of a tenth.
inline int64_t UsableMemory(const Topology& topology) { return topology.memory_available_bytes / 10 * 9; }

/// The CPUs of a list such as "0-3,8", in its order. Returns InvalidArgument if `text` is not such a list,
/// names a CPU twice, or names one that this process may not use. FailedPrecondition on macOS, which lets no thread
/// choose its CPU.
absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text);

}  // namespace shoal
