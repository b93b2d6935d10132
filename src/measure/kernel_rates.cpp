#include "measure/kernel_rates.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <span>
#include <thread>

#include "base/check.h"
#include "base/process.h"
#include "base/random.h"
#include "base/range.h"
#include "base/status.h"
#include "compute/sampler.h"
#include "cpu/arena.h"
#include "cpu/pool.h"
#include "numeric/affine.h"
#include "numeric/dtype.h"

namespace shoal {
namespace {

constexpr int64_t kCols = 2048;
constexpr int kGroup = 64;
constexpr int64_t kRows = ThreadRates::kManyRows;
/// One row meets the weights matrix by matrix, with all threads waiting for the last in between: so many bytes are a matrix
/// of a model of some billion weights.
constexpr int64_t kMatrixBytes = int64_t{8} << 20;
/// Sums of so many tiles and kRows rows are more than a core's cache keeps, as those of a layer are.
constexpr int64_t kTilesPerThread = 256;
constexpr int64_t kFloatRowsAtOnce = 64;
constexpr int64_t kFloatTilesPerThread = 16;
/// Heads that are common. Reading is measured with a query head for each of keys and values: more of them multiply more.
constexpr int64_t kKvHeads = 8;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kQueriesPerKey = 2;
static_assert(kKvHeads * kQueriesPerKey * kHeadDim == kCols, "a row of the input is a query");
constexpr int64_t kQueriesPerThread = 32;  // As many read the cache together.
constexpr int64_t kAttended = 1024;        // Positions: the middle of a prompt of 2048.
constexpr float kScale = 0.09f;            // About 1 / sqrt(kHeadDim).
constexpr int64_t kVocabulary = 1 << 16;   // Ids that a token is drawn from.
constexpr int64_t kSourceRows = 1024;      // Random weights are made once, and repeated.
constexpr int64_t kFloatRows = 1024;

int64_t Median(std::vector<int64_t> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Units of work per second in the median of the runs within `budget`; of one run at least. `run` does `work` units.
double TypicalRate(Duration budget, double work, absl::FunctionRef<void()> run) {
  run();  // Threads awake, pages at hand.
  const Deadline end = Deadline::after(budget);
  std::vector<int64_t> elapsed_ns;
  do {
    const int64_t begin_ns = NowNs();
    run();
    elapsed_ns.push_back(std::max<int64_t>(1, NowNs() - begin_ns));
  } while (!end.expired());
  return work / (1e-9 * static_cast<double>(Median(std::move(elapsed_ns))));
}

/// Microseconds until a thread that sleeps runs, once another tells it: half of there and back, the median.
double MeasureHandover(Duration budget) {
  constexpr Duration kAsleep = std::chrono::microseconds(200);  // Until then it may not sleep yet.
  constexpr Duration kLost = std::chrono::seconds(1);           // A wait that no machine needs.
  std::mutex mutex;
  std::condition_variable told;
  std::condition_variable answered;
  bool asks = false;
  bool stopping = false;
  std::thread other([&] {
    std::unique_lock lock(mutex);
    while (!stopping) {
      if (!told.wait_for(lock, kLost, [&] { return asks || stopping; })) continue;
      asks = false;
      answered.notify_one();
    }
  });
  std::vector<int64_t> elapsed_ns;
  const Deadline end = Deadline::after(budget);
  do {
    for (const Deadline sleeps = Deadline::after(kAsleep); !sleeps.expired();) {
    }
    std::unique_lock lock(mutex);
    const int64_t begin_ns = NowNs();
    asks = true;
    told.notify_one();
    answered.wait_for(lock, kLost, [&] { return !asks; });
    elapsed_ns.push_back(NowNs() - begin_ns);
  } while (!end.expired());
  {
    const std::lock_guard lock(mutex);
    stopping = true;
  }
  told.notify_one();
  other.join();
  return 0.5e-3 * static_cast<double>(Median(std::move(elapsed_ns)));
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
  const int64_t block_bytes = 2 * KvBlockBytes(kKvHeads, kHeadDim, DType::kF16);
  const int64_t blocks = std::max<int64_t>(1, options.weight_bytes / 2 / block_bytes);
  for (int32_t i = 0; i < blocks; ++i) meter.blocks_.push_back(BlockId{i});
  ASSIGN_OR_RETURN(meter.cache_, AlignedMemory::Allocate(blocks * block_bytes));
  const int64_t splits = AttentionSplits({0, blocks * kBlockPositions}).size();
  const int64_t values =
      std::max({rows, kRows * kTilesPerThread * kTileRows * threads, kQueriesPerThread * threads * kCols,
                splits * kKvHeads * AttentionPartialFloats(kHeadDim)});
  ASSIGN_OR_RETURN(meter.output_, AlignedMemory::Allocate(values * int64_t{sizeof(float)}));
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
  meter.fill_cache(pool);
  return meter;
}

KvLayerView KernelMeter::cache() const {
  const int64_t bytes = KvBlockBytes(kKvHeads, kHeadDim, DType::kF16);
  return {.keys = cache_.data(),
          .values = cache_.data() + bytes,
          .block_stride = 2 * bytes,
          .kv_heads = kKvHeads,
          .head_dim = kHeadDim,
          .dtype = DType::kF16};
}

void KernelMeter::fill_cache(ThreadPool& pool) {
  const Kernels& kernels = SelectKernels(options_.isa);
  const auto* x = reinterpret_cast<const float*>(input_.data());
  pool.run_ranges(std::ssize(blocks_), 1, [&](Range part) {
    for (int64_t position = part.begin * kBlockPositions; position < part.end * kBlockPositions; ++position) {
      const float* row = x + position % kRows * kCols;
      kernels.append_kv({.cache = cache(),
                         .block = blocks_[static_cast<size_t>(position / kBlockPositions)],
                         .position = position,
                         .key = row,
                         .value = row + kKvHeads * kHeadDim,
                         .kv_heads = {0, kKvHeads}});
    }
  });
}

std::vector<AttentionRow> KernelMeter::queries(int64_t rows, int64_t positions) const {
  const auto* x = reinterpret_cast<const float*>(input_.data());
  auto* out = reinterpret_cast<float*>(output_.data());
  std::vector<AttentionRow> list;
  for (int64_t r = 0; r < rows; ++r) {
    list.push_back({.query = x + r % kRows * kCols,
                    .out = out + r * kCols,
                    .blocks = blocks_.data(),
                    .positions = {0, positions}});
  }
  return list;
}

ThreadRates KernelMeter::measure(int threads) const {
  ThreadRates rates;
  // On a thread of its own, which may be pinned: the caller must not be.
  std::thread([&] {
    ThreadPool pool(threads, options_.cpus);
    pool.pin_caller();
    rates = measure(pool);
  }).join();
  rates.handover_us = MeasureHandover(options_.budget / 4);  // Wherever the system puts the two.
  rates.draw_ns = draw_ns();
  return rates;
}

/// A run that is shorter than a quota's period may see nothing of the quota, a longer one sees it at random.
double KernelMeter::rate(const ThreadPool& pool, double work, absl::FunctionRef<void()> run) const {
  const double share = ShareUnderQuota(options_.quota_cpus, pool.threads());
  if (share == 1) return TypicalRate(options_.budget, work, run);
  return share * RateByCpuTime(pool.threads(), options_.budget, work, run);
}

ThreadRates KernelMeter::measure(ThreadPool& pool) const {
  ThreadRates rates;
  rates.threads = pool.threads();
  rates.read_gbs = read_gbs(pool);
  rates.int8_gops = int8_gops(pool, {ThreadRates::kManyRows});
  // Rows choose experts as they like: kernels that take 16 at a time meet 10 as well as 22.
  rates.int8_few_gops = int8_gops(pool, {10, 14, 18, 22});
  rates.f32_gflops = f32_gflops(pool);
  rates.attention_gbs = attention_gbs(pool);
  rates.attention_gflops = attention_gflops(pool);
  constexpr int kWakes = 50;
  const double wakes_per_s = TypicalRate(options_.budget / 4, kWakes, [&] {
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
  const int64_t at_once = std::max<int64_t>(1, kMatrixBytes / weights.tile_bytes);
  return 1e-9 * rate(pool, static_cast<double>(affine_.bytes()), [&] {
           for (int64_t begin = 0; begin < weights.tiles(); begin += at_once) {
             pool.run_ranges(std::min(at_once, weights.tiles() - begin), 1, [&](Range part) {
               kernels.matmul_affine(
                   {.x = x, .w = weights, .y = y, .tiles = {begin + part.begin, begin + part.end}});
             });
           }
         });
}

double KernelMeter::int8_gops(ThreadPool& pool, std::initializer_list<int64_t> rows) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  PackedView weights = affine_.view();
  const QuantizedRows x = QuantizedRowsIn(codes_.data(), kRows, kCols, kGroup);
  const int64_t all_tiles = weights.tiles();
  const int64_t tiles_used =
      std::min({all_tiles, kTilesPerThread * pool.threads(), output_values() / (kRows * kTileRows)});
  weights.rows = tiles_used * kTileRows;
  // Each product has other weights, which come from memory, as those of a layer do.
  auto turn = [&, first = int64_t{0}]() mutable {
    weights.data = affine_.view().data + first * weights.tile_bytes;
    first = first + 2 * tiles_used <= all_tiles ? first + tiles_used : 0;
  };
  auto* out = reinterpret_cast<float*>(output_.data());
  double ops = 0;
  for (const int64_t count : rows) ops += 2.0 * static_cast<double>(count * kCols * tiles_used * kTileRows);
  return 1e-9 * rate(pool, ops, [&] {
           for (const int64_t count : rows) {
             turn();
             pool.run_ranges(tiles_used, 1, [&](Range tiles) {
               kernels.matmul_affine({.x = x.rows_between({0, count}),
                                      .w = weights,
                                      .y = MatView<float>(out, count, tiles_used * kTileRows),
                                      .tiles = tiles});
             });
           }
         });
}

double KernelMeter::f32_gflops(ThreadPool& pool) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  const PackedView weights = floats_.view();
  const MatView<const float> x(reinterpret_cast<const float*>(input_.data()), kFloatRowsAtOnce, kCols);
  const int64_t tiles_used = std::min({weights.tiles(), kFloatTilesPerThread * pool.threads(),
                                       output_values() / (kFloatRowsAtOnce * kTileRows)});
  const MatView<float> y(reinterpret_cast<float*>(output_.data()), kFloatRowsAtOnce, tiles_used * kTileRows);
  const double ops = 2.0 * static_cast<double>(kFloatRowsAtOnce * kCols * tiles_used * kTileRows);
  return 1e-9 * rate(pool, ops, [&] {
           pool.run_ranges(tiles_used, 1, [&](Range tiles) {
             kernels.matmul_float({.x = x, .w = weights, .y = y, .tiles = tiles});
           });
         });
}

double KernelMeter::attention_gbs(ThreadPool& pool) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  const AttentionRow row = queries(1, std::ssize(blocks_) * kBlockPositions).front();
  const int64_t splits = AttentionSplits(row.positions).size();
  auto* partials = reinterpret_cast<float*>(output_.data());
  return 1e-9 * rate(pool, static_cast<double>(cache_.bytes()), [&] {
           // A split of one head after the other, as they lie in memory.
           pool.run_ranges(splits * kKvHeads, 1, [&](Range cells) {
             for (int64_t cell = cells.begin; cell < cells.end; ++cell) {
               const int64_t split = cell / kKvHeads;
               const int64_t head = cell % kKvHeads;
               kernels.attention_partial({.cache = cache(),
                                          .group = 1,
                                          .scale = kScale,
                                          .row = row,
                                          .splits = {split, split + 1},
                                          .kv_heads = {head, head + 1},
                                          .partials = partials});
             }
           });
         });
}

double KernelMeter::attention_gflops(ThreadPool& pool) const {
  const Kernels& kernels = SelectKernels(options_.isa);
  const int64_t positions = std::min(kAttended, std::ssize(blocks_) * kBlockPositions);
  const int64_t rows = std::min(kQueriesPerThread * pool.threads(), output_values() / kCols);
  const std::vector<AttentionRow> list = queries(rows, positions);
  constexpr double kOps =
      4.0 * kKvHeads * kQueriesPerKey * kHeadDim;  // Of a row with a position: q . k, and weight * v.
  return 1e-9 * rate(pool, kOps * static_cast<double>(rows * positions), [&] {
           pool.run_ranges(rows, kQueriesPerThread, [&](Range part) {
             kernels.attention({.cache = cache(),
                                .group = kQueriesPerKey,
                                .scale = kScale,
                                .rows = list.data(),
                                .row_range = part,
                                .kv_heads = {0, kKvHeads}});
           });
         });
}

double KernelMeter::draw_ns() const {
  const Kernels& kernels = SelectKernels(options_.isa);
  RandomStream random(3);
  std::vector<float> made(kVocabulary);
  for (float& logit : made) logit = static_cast<float>(20 * random.uniform() - 10);
  std::vector<float> logits;
  Arena scratch;
  int64_t position = 0;
  const SamplingParams params{.temperature = 1};
  const TokenHistory history;
  const double draws_per_s = TypicalRate(options_.budget / 4, 1, [&] {
    logits = made;  // Drawing may change them.
    const auto drawn = SampleToken(kernels, {params, history, ++position, {}}, scratch, logits);
    SHOAL_CHECK(drawn.ok());
  });
  return 1e9 / (draws_per_s * ShareUnderQuota(options_.quota_cpus, 1) * kVocabulary);
}

}  // namespace shoal
