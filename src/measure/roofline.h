// What this machine can do at most, measured here and now: the bounds that benchmarks are held against. They
// are peaks of the machine and not of our kernels: the loops read without using what they read, and multiply
// what is in registers already.
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
#include "numeric/memory.h"

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
  /// The same 8-bit operations together with what quantized products need besides (docs/numerics.md): for
  /// each 64 multiply-adds of a sum a conversion, a product and two multiply-adds, all in registers. Where
  /// there is a loop for it: AVX-512 VNNI.
  std::optional<double> scaled_gops;
};

struct RooflineOptions {
  int64_t read_bytes = int64_t{512} << 20;           ///< Well beyond the last cache.
  Duration run = std::chrono::milliseconds(8);       ///< At least so long, to count.
  Duration budget = std::chrono::milliseconds(250);  ///< The best run of this time counts: what disturbs a
                                                     ///< run only makes it slower.
};

/// Measures teams of threads. Its memory is resident from the start: whoever measures other memory beside it
/// knows what to take off.
class RooflineMeter {
 public:
  /// Teams have up to `threads` threads, among which the memory is divided (each writes its part first, which
  /// puts it beside its CPU), on `cpus` as those of ThreadPool. ResourceExhausted where the memory does not
  /// fit; FailedPrecondition on an x86 CPU without AVX2.
  static absl::StatusOr<RooflineMeter> Create(int threads, std::vector<int> cpus,
                                              const RooflineOptions& options);

  /// All rates; takes some 1.5 seconds with the default options.
  Roofline measure(int threads) const;

  /// Roofline::read_gbs alone, in a third of a second: a machine's memory is shared with its host's other
  /// guests, and what it gives can halve within minutes. So it is asked beside each load that reading bounds.
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

/// GB/s at which the system hands out `bytes` of memory to all threads together: each page is written to for
/// the first time. In a virtual machine whose host takes back what is free this can be slower than anything
/// that is done with the memory afterwards. It is free again then, and at hand for who asks next. bytes > 0.
/// ResourceExhausted where there is not as much.
absl::StatusOr<double> MeasureFirstTouchRate(ThreadPool& pool, int64_t bytes);

/// Raises what cannot be right: a team reaches at least what a smaller one does, and a smaller one at least
/// its share of what a larger one does. Measurements that say otherwise were disturbed, and a bound that is
/// too low flatters.
void Reconcile(std::map<int, Roofline>& by_threads);

}  // namespace shoal
