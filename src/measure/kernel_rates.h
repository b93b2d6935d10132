// What shoal's own kernels reach on this machine, per number of threads: the rates that plans are predicted with. Unlike
// the peaks of roofline.h they need no factor to say what a step takes.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "cpu/pool.h"
#include "kernels/kernels.h"
#include "numeric/memory.h"
#include "plan/facts.h"

namespace shoal {

struct KernelMeterOptions {
  Isa isa = Isa::kReference;
  std::vector<int> cpus;                      ///< As for ThreadPool.
  int64_t weight_bytes = int64_t{128} << 20;  ///< Of 4-bit weights; several times what a cache holds.
  /// Of each rate. The median of its runs counts: what the machine gives now and then, no step gets on the whole.
  Duration budget = std::chrono::milliseconds(60);
  double quota_cpus = 0;  ///< The CPU quota that this process is under; 0: none.
};

/// The share of its time that a team of so many threads runs under a CPU quota (0: none).
double ShareUnderQuota(double quota_cpus, int threads);

/// Measures teams of threads one after the other, on weights that all of them read.
class KernelMeter {
 public:
  /// Makes the weights, on `threads` threads. ResourceExhausted where there is no memory for them.
  static absl::StatusOr<KernelMeter> Create(int threads, const KernelMeterOptions& options);

  /// The rates of so many threads, in about six budgets.
  ThreadRates measure(int threads) const;

 private:
  explicit KernelMeter(const KernelMeterOptions& options) : options_(options) {}
  ThreadRates measure(ThreadPool& pool) const;
  double read_gbs(ThreadPool& pool) const;
  /// The mean over products of so many rows each.
  double int8_gops(ThreadPool& pool, std::initializer_list<int64_t> rows) const;
  double f32_gflops(ThreadPool& pool) const;
  double attention_gbs(ThreadPool& pool) const;
  double attention_gflops(ThreadPool& pool) const;
  double draw_ns() const;
  int64_t output_values() const { return output_.bytes() / int64_t{sizeof(float)}; }
  KvLayerView cache() const;
  void fill_cache(ThreadPool& pool);
  /// Rows [0, rows) of `input_` as queries that all attend to the first `positions` of the cache.
  std::vector<AttentionRow> queries(int64_t rows, int64_t positions) const;
  double rate(const ThreadPool& pool, double work, absl::FunctionRef<void()> run) const;

  KernelMeterOptions options_;
  PackedMatrix affine_;          // [N, kCols] in 4 bits, groups of 64.
  PackedMatrix floats_;          // [kFloatRows, kCols] in f32.
  AlignedMemory cache_;          // Keys and values of blocks_, f16.
  std::vector<BlockId> blocks_;  // 0, 1, ...
  AlignedMemory input_;          // [kRows, kCols] f32, ordinary values.
  AlignedMemory codes_;          // The same, quantized.
  AlignedMemory output_;         // Of whichever product runs.
};

/// MB/s at which a file in `folder` is read from its disk, past the system's cache where the file system allows it. Writes
/// a file of 16 MiB and deletes it; takes half a second at most, as far as the disk lets it. 0: it can't be told.
double MeasureDiskRead(const std::string& folder);

}  // namespace shoal
