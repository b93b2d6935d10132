// What this machine can do at most, measured here and now: the bounds that benchmarks are held against. They
// are peaks of the machine and not of our kernels: the loops read without using what they read, and multiply
// what is in registers already.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cpu/pool.h"

namespace shoal {

/// Rates of all threads of a team together. An operation is a multiplication or an addition, so a
/// multiply-add is two; G is 1e9.
struct Roofline {
  int threads = 1;
  double read_gbs = 0;             ///< GB/s of reading a buffer that no cache holds.
  double vnni_gops = 0;            ///< 8-bit integer operations in vector registers.
  std::optional<double> amx_gops;  ///< 8-bit integer operations on tiles, where CPU and kernel grant them.
  double fma_gflops = 0;           ///< f32.
  std::string_view vnni_how;       ///< The instruction that vnni_gops counts.
};

struct RooflineOptions {
  int64_t read_bytes = int64_t{512} << 20;           ///< Well beyond the last cache.
  Duration run = std::chrono::milliseconds(8);       ///< At least so long, to count.
  Duration budget = std::chrono::milliseconds(250);  ///< The best run of this time counts: what disturbs a
                                                     ///< run only makes it slower.
};

/// Takes some 1.5 seconds with the default options. ResourceExhausted where the buffer does not fit;
/// FailedPrecondition on an x86 CPU without AVX2.
absl::StatusOr<Roofline> MeasureRoofline(ThreadPool& pool, const RooflineOptions& options);

/// Raises what cannot be right: a team reaches at least what a smaller one does, and a smaller one at least
/// its share of what a larger one does. Measurements that say otherwise were disturbed, and a bound that is
/// too low flatters.
void Reconcile(std::map<int, Roofline>& by_threads);

}  // namespace shoal
