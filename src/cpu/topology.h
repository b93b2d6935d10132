// What this machine is: facts for the planner, the default number of threads and benchmark reports.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

struct Topology {
  std::string cpu_name;  ///< "Intel(R) Xeon(R) ...", or the architecture where the system names none.
  int cpus = 1;          ///< Logical CPUs this process may use: affinity mask and cgroup quota respected.
  int cores = 1;         ///< Physical cores among them, as far as the system tells; the default thread count.
  int64_t memory_bytes = 0;  ///< Physical memory, or the cgroup's limit where that is smaller.
  int64_t l1d_bytes = 0;     ///< Of one core; 0 where unknown.
  int64_t l2_bytes = 0;
  int64_t l3_bytes = 0;  ///< Of one socket.
};

/// Reads /proc, /sys and this thread's affinity; what cannot be read keeps its default. `root` is put in
/// front of every path (for tests).
Topology ReadTopology(const std::string& root = "");

/// The CPUs of a list such as "0-3,8", in its order, each once. InvalidArgument where it is no such list, or
/// names a CPU that this process may not use.
absl::StatusOr<std::vector<int>> ParseCpuList(std::string_view text);

}  // namespace shoal
