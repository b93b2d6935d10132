#include "measure/kernel_rates.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <thread>

#include "base/check.h"
#include "base/process.h"
#include "base/random.h"
#include "base/range.h"
#include "base/status.h"
#include "cpu/pool.h"
#include "numeric/affine.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

constexpr int64_t kCols = 2048;
constexpr int kGroup = 64;
constexpr int64_t kRows = 64;  // Of a chunk of a prompt: as many as make the weights' reading invisible.
constexpr int64_t kSourceRows = 1024;  // Random weights are made once, and repeated.
constexpr int64_t kFloatRows = 1024;

/// Units of work per second in the best run within `budget`; of one run at least. `run` does `work` units.
double BestRate(Duration budget, double work, absl::FunctionRef<void()> run) {
  const Deadline end = Deadline::after(budget);
  double best = 0;
  run();  // Threads awake, pages at hand.
  do {
    const int64_t begin_ns = NowNs();
    run();
    best = std::max(best, work / (1e-9 * static_cast<double>(std::max<int64_t>(1, NowNs() - begin_ns))));
  } while (!end.expired());
  return best;
}

/// Units of work per second of CPU that each of `threads` threads got in `budget`: what a quota stops is left out. The mean of all
/// runs, since the system counts the time of threads that run in ticks of some milliseconds.
double RateByCpuTime(int threads, Duration budget, double work, absl::FunctionRef<void()> run) {
  constexpr double kShortest = 1e-6;
  const Deadline end = Deadline::after(budget);
  run();
  const CpuTime begin = ProcessCpuTime();
  double done = 0;
  do {
    run();
    done += work;
  } while (!end.expired());
  const CpuTime spent = ProcessCpuTime() - begin;
  return done * threads / std::max(kShortest, spent.user_s + spent.system_s);
}

/// Fills the rows of `out` with 4-bit weights about 0.1 in size.
void FillAffine(ThreadPool& pool, PackedMatrix& out) {
  RandomStream random(1);
  std::vector<uint32_t> words(static_cast<size_t>(kSourceRows * kCols * 4 / 32));
  for (uint32_t& word : words) word = static_cast<uint32_t>(random.bits());
  const std::vector<uint16_t> scales(static_cast<size_t>(kSourceRows * kCols / kGroup), F32ToBF16(0.0125f));
  const std::vector<uint16_t> biases(scales.size(), F32ToBF16(-0.1f));
  const AffineView source = {.words = words.data(),
                             .scales = scales.data(),
                             .biases = biases.data(),
                             .scale_dtype = DType::kBF16,
                             .rows = kSourceRows,
                             .cols = kCols,
                             .bits = 4,
                             .group = kGroup};
  pool.run_ranges(out.rows() / kSourceRows, 1, [&](Range part) {
    for (int64_t i = part.begin; i < part.end; ++i)
      out.set_affine_rows(i * kSourceRows, source, {0, kSourceRows});
  });
}

}  // namespace

double ShareUnderQuota(double quota_cpus, int threads) {
  return quota_cpus > 0 ? std::min(1.0, quota_cpus / threads) : 1.0;
}

absl::StatusOr<KernelMeter> KernelMeter::Create(int threads, const KernelMeterOptions& options) {
  KernelMeter meter(options);
  const PackedFormat format = {.dtype = DType::kBF16, .bits = 4, .group = kGroup};
  const int64_t bytes_of_source = PackedBytes(format, kSourceRows, kCols);
  const int64_t rows = std::max<int64_t>(1, options.weight_bytes / bytes_of_source) * kSourceRows;
  ASSIGN_OR_RETURN(meter.affine_, PackedMatrix::Allocate(format, rows, kCols));
  ASSIGN_OR_RETURN(meter.floats_, PackedMatrix::Allocate({.dtype = DType::kF32}, kFloatRows, kCols));
  ASSIGN_OR_RETURN(meter.input_, AlignedMemory::Allocate(kRows * kCols * int64_t{sizeof(float)}));
  ASSIGN_OR_RETURN(meter.codes_, AlignedMemory::Allocate(QuantizedRowsBytes(kRows, kCols, kGroup)));
  ASSIGN_OR_RETURN(meter.output_, AlignedMemory::Allocate(kRows * rows * int64_t{sizeof(float)}));
  ThreadPool pool(threads, options.cpus);
  FillAffine(pool, meter.affine_);
  auto* x = reinterpret_cast<float*>(meter.input_.data());
  RandomStream random(2);
  for (int64_t i = 0; i < kRows * kCols; ++i) x[i] = static_cast<float>(2 * random.uniform() - 1);
  for (int64_t first = 0; first < kFloatRows; first += kRows) {
    meter.floats_.set_float_rows(first, x, kCols, {0, kRows});
  }
  const bool finite = SelectKernels(options.isa)
                          .quantize_rows({.x = MatView<const float>(x, kRows, kCols),
                                          .out = QuantizedRowsIn(meter.codes_.data(), kRows, kCols, kGroup),
                                          .rows = {0, kRows}});
  SHOAL_CHECK(finite);
  return meter;
}

ThreadRates KernelMeter::measure(int threads) const {
  ThreadRates rates;
  // On a thread of its own, which may be pinned: the caller must not be.
  std::thread([&] {
    ThreadPool pool(threads, options_.cpus);
    pool.pin_caller();
    rates = measure(pool);
  }).join();
  return rates;
}

/// A run that is shorter than a quota's period may see nothing of the quota, a longer one sees it at random.
double KernelMeter::rate(const ThreadPool& pool, double work, absl::FunctionRef<void()> run) const {
  const double share = ShareUnderQuota(options_.quota_cpus, pool.threads());
  if (share == 1) return BestRate(options_.budget, work, run);
  return share * RateByCpuTime(pool.threads(), options_.budget, work, run);
}

ThreadRates KernelMeter::measure(ThreadPool& pool) const {
  ThreadRates rates;
  rates.threads = pool.threads();
  rates.read_gbs = read_gbs(pool);
  rates.int8_gops = int8_gops(pool);
  rates.f32_gflops = f32_gflops(pool);
  constexpr int kWakes = 50;
  const double wakes_per_s = BestRate(options_.budget / 4, kWakes, [&] {
    for (int i = 0; i < kWakes; ++i) pool.run([](int, int) {});
  });
  rates.wake_us = 1e6 / wakes_per_s;
  return rates;
}

double KernelMeter::read_gbs(ThreadPool& pool) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  const PackedView weights = affine_.view();
  const QuantizedRows x = QuantizedRowsIn(codes_.data(), kRows, kCols, kGroup).rows_between({0, 1});
  const MatView<float> y(reinterpret_cast<float*>(output_.data()), 1, affine_.rows());
  return 1e-9 * rate(pool, static_cast<double>(affine_.bytes()), [&] {
           pool.run_ranges(weights.tiles(), 1, [&](Range tiles) {
             kernels.matmul_affine({.x = x, .w = weights, .y = y, .tiles = tiles});
           });
         });
}

double KernelMeter::int8_gops(ThreadPool& pool) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  const PackedView weights = affine_.view();
  const QuantizedRows x = QuantizedRowsIn(codes_.data(), kRows, kCols, kGroup);
  const MatView<float> y(reinterpret_cast<float*>(output_.data()), kRows, affine_.rows());
  // A millisecond or more for each thread, with the weights of a few layers.
  const int64_t tiles_used = std::min<int64_t>(weights.tiles(), int64_t{64} * pool.threads());
  const double ops = 2.0 * static_cast<double>(kRows * kCols * tiles_used * kTileRows);
  return 1e-9 * rate(pool, ops, [&] {
           pool.run_ranges(tiles_used, 1, [&](Range tiles) {
             kernels.matmul_affine({.x = x, .w = weights, .y = y, .tiles = tiles});
           });
         });
}

double KernelMeter::f32_gflops(ThreadPool& pool) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  const PackedView weights = floats_.view();
  const MatView<const float> x(reinterpret_cast<const float*>(input_.data()), kRows, kCols);
  const MatView<float> y(reinterpret_cast<float*>(output_.data()), kRows, affine_.rows());
  const int64_t tiles_used = std::min<int64_t>(weights.tiles(), int64_t{16} * pool.threads());
  const double ops = 2.0 * static_cast<double>(kRows * kCols * tiles_used * kTileRows);
  return 1e-9 * rate(pool, ops, [&] {
           pool.run_ranges(tiles_used, 1, [&](Range tiles) {
             kernels.matmul_float({.x = x, .w = weights, .y = y, .tiles = tiles});
           });
         });
}

}  // namespace shoal
