// Measures the peak rates of this machine, the bounds that benchmarks are compared with. They are peaks of
// the machine, not of our kernels: the loops read data without using it, or multiply what is in registers
// already.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cpu/pool.h"
#include "kernels/kernels.h"
#include "numeric/memory.h"

namespace shoal {

/// Rates of all threads of a team together. A multiply-add is two operations; G is 1e9.
struct Roofline {
  int threads = 1;
  double read_gbs = 0;             ///< GB/s of reading a buffer that no cache holds.
  double vnni_gops = 0;            ///< 8-bit integer operations in vector registers.
  std::optional<double> amx_gops;  ///< 8-bit integer operations on AMX tiles, if CPU and kernel permit them.
  double fma_gflops = 0;           ///< f32 operations.
  std::string_view vnni_how;       ///< The instruction that vnni_gops counts.
  /// 8-bit operations of quantized products with their rescaling (docs/numerics.md): for each 64
  /// multiply-adds of a sum a conversion, a product and two multiply-adds, all in registers. Counts the 8-bit
  /// operations alone. Measured on x86 only.
  std::optional<double> scaled_gops;
  /// The same for 8-bit weights, where they take other instructions than vnni_gops counts: AVX2 alone.
  std::optional<double> wide_gops;
};

struct RooflineOptions {
  int64_t read_bytes = int64_t{512} << 20;      ///< Much larger than the last-level cache.
  Duration run = std::chrono::milliseconds(8);  ///< Shorter runs do not count.
  /// Time for each rate. The best run counts, since disturbances only make runs slower.
  Duration budget = std::chrono::milliseconds(250);
  /// The kernels whose bounds are measured, with no instructions but those they may use. nullopt: the fastest here.
  std::optional<Isa> isa;
};

/// Measures teams of threads. Its memory is resident from the start, so that a measurement of resident memory
/// can subtract it.
class RooflineMeter {
 public:
  /// threads: the most threads of a team. They divide the memory; each thread writes its range first, which
  /// places it on the NUMA node of the thread. cpus: as for ThreadPool.
  /// Returns ResourceExhausted if the memory does not fit, FailedPrecondition on an x86 CPU without AVX2.
  static absl::StatusOr<RooflineMeter> Create(int threads, std::vector<int> cpus,
                                              const RooflineOptions& options);

  /// Measures all rates, in about 1.5 seconds with the default options.
  Roofline measure(int threads) const;

  /// Measures Roofline::read_gbs alone, in a third of a second. A virtual machine shares memory bandwidth
  /// with other guests, and its bandwidth can halve within minutes, so it is measured again beside each load
  /// that reading bounds.
  double read_gbs(int threads) const;

  int64_t resident_bytes() const { return memory_.bytes(); }

 private:
  RooflineMeter(std::vector<int> cpus, const RooflineOptions& options, AlignedMemory memory)
      : cpus_(std::move(cpus)), options_(options), memory_(std::move(memory)) {}

  void with_team(int threads, absl::FunctionRef<void(ThreadPool& pool)> work) const;
  double read_gbs(ThreadPool& pool, const RooflineOptions& options) const;

  std::vector<int> cpus_;
  RooflineOptions options_;
  AlignedMemory memory_;
};

/// The first-touch rate in GB/s: all threads together write each page of `bytes` new bytes for the first
/// time. In a virtual machine whose host reclaims free memory this can be slower than all later use of the
/// memory. The memory is freed afterwards, so the next allocation gets it faster. bytes > 0.
/// Returns ResourceExhausted if there is not enough memory.
absl::StatusOr<double> MeasureFirstTouchRate(ThreadPool& pool, int64_t bytes);

/// Raises rates that are too low to be right. The rate for n threads is at least the rate for fewer threads,
/// and at least its proportion of the rate for more threads. Lower measurements were disturbed, and a bound
/// that is too low flatters.
void Reconcile(std::map<int, Roofline>& by_threads);

}  // namespace shoal
