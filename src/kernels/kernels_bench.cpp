// Micro-benchmarks of the kernels on the shapes of Qwen3-1.7B (D 2048, F 6144, 16/8 heads of 128), and the
// bounds that they are measured against on one thread: read bandwidth and the rates of the multiply-add
// units, as these kernels can reach them.
//   kernels_bench --benchmark_filter=avx512
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/test_data.h"

namespace shoal {
namespace {

constexpr int64_t kCols = 2048;

/// Enough distinct matrices that no cache holds them: decode reads every weight once per token.
std::vector<PackedMatrix> Weights(int bits, int64_t rows, int64_t total_bytes) {
  RandomStream random(1);
  const AffineSource source = RandomAffine(random, rows, kCols, bits, 64, DType::kBF16);
  std::vector<PackedMatrix> weights;
  int64_t bytes = 0;
  while (weights.empty() || bytes < total_bytes) {
    weights.push_back(*PackedMatrix::PackAffine(source.view));
    bytes += weights.back().bytes();
  }
  return weights;
}

void MatmulAffine(benchmark::State& state, Isa isa, int bits, int64_t tokens) {
  const Kernels& kernels = SelectKernels(isa);
  RandomStream random(2);
  const int64_t rows = 6144;
  const std::vector<PackedMatrix> weights = Weights(bits, rows, tokens == 1 ? int64_t{1} << 30 : 0);
  const QuantizedStorage x = Quantize(kernels, RandomFloats(random, tokens * kCols), kCols, 64);
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  size_t next = 0;
  for (auto _ : state) {
    const PackedView w = weights[next++ % weights.size()].view();
    kernels.matmul_affine({.x = x.rows, .w = w, .y = View(y, rows), .tiles = w.all_tiles()});
    benchmark::DoNotOptimize(y.data());
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(runs * static_cast<double>(weights[0].bytes()) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["int8_GOP/s"] = benchmark::Counter(runs * 2e-9 * static_cast<double>(tokens * rows * kCols),
                                                    benchmark::Counter::kIsRate);
}

void MatmulFloat(benchmark::State& state, Isa isa, DType dtype, int64_t tokens) {
  const Kernels& kernels = SelectKernels(isa);
  RandomStream random(3);
  const int64_t rows = 2048;
  const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, rows * kCols), dtype);
  std::vector<PackedMatrix> weights;
  for (int i = 0; i < (tokens == 1 ? 64 : 1); ++i) {
    weights.push_back(*PackedMatrix::PackFloat(bytes.data(), dtype, rows, kCols, kCols));
  }
  const std::vector<float> x = RandomFloats(random, tokens * kCols);
  std::vector<float> y(static_cast<size_t>(tokens * rows));
  size_t next = 0;
  for (auto _ : state) {
    const PackedView w = weights[next++ % weights.size()].view();
    kernels.matmul_float({.x = ConstView(x, kCols), .w = w, .y = View(y, rows), .tiles = w.all_tiles()});
    benchmark::DoNotOptimize(y.data());
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(runs * static_cast<double>(weights[0].bytes()) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(runs * 2e-9 * static_cast<double>(tokens * rows * kCols),
                                                 benchmark::Counter::kIsRate);
}

void Attention(benchmark::State& state, Isa isa, int64_t context, int64_t rows) {
  const Kernels& kernels = SelectKernels(isa);
  const int64_t kv_heads = 8, group = 2, head_dim = 128;
  RandomStream random(4);
  CacheStorage cache = MakeCache(context / kKvBlockPositions, kv_heads, head_dim, DType::kF16);
  std::vector<BlockId> blocks;
  for (int64_t b = 0; b < context / kKvBlockPositions; ++b)
    blocks.push_back(BlockId{static_cast<int32_t>(b)});
  const std::vector<float> key = RandomFloats(random, kv_heads * head_dim);
  for (int64_t p = 0; p < context; ++p) {
    kernels.append_kv({.cache = cache.view,
                       .block = blocks[static_cast<size_t>(p / kKvBlockPositions)],
                       .position = p,
                       .key = key.data(),
                       .value = key.data(),
                       .kv_heads = {0, kv_heads}});
  }
  const std::vector<float> query = RandomFloats(random, rows * kv_heads * group * head_dim);
  std::vector<float> out(query.size());
  std::vector<AttentionRow> attention_rows;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t offset = r * kv_heads * group * head_dim;
    attention_rows.push_back(
        {query.data() + offset, out.data() + offset, blocks.data(), {0, context - rows + 1 + r}});
  }
  for (auto _ : state) {
    kernels.attention({.cache = cache.view,
                       .group = group,
                       .scale = 0.088f,
                       .rows = attention_rows.data(),
                       .row_range = {0, rows},
                       .kv_heads = {0, kv_heads}});
    benchmark::DoNotOptimize(out.data());
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(runs * static_cast<double>(cache.memory.size()) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(runs * 4e-9 * static_cast<double>(rows * context * kv_heads * group * head_dim),
                         benchmark::Counter::kIsRate);
}

void QuantizeRows(benchmark::State& state, Isa isa) {
  const Kernels& kernels = SelectKernels(isa);
  RandomStream random(5);
  const std::vector<float> x = RandomFloats(random, 16 * kCols);
  QuantizedStorage out = MakeQuantized(16, kCols, 64);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        kernels.quantize_rows({.x = ConstView(x, kCols), .out = out.rows, .rows = {0, 16}}));
  }
  state.SetItemsProcessed(state.iterations() * 16 * kCols);
}

void SiluMul(benchmark::State& state, Isa isa) {
  const Kernels& kernels = SelectKernels(isa);
  RandomStream random(6);
  std::vector<float> x = RandomFloats(random, 16 * kCols);
  std::vector<float> y(x.size());
  for (auto _ : state) {
    kernels.silu_mul(
        {.gate = ConstView(x, kCols), .up = ConstView(x, kCols), .out = View(y, kCols), .rows = {0, 16}});
    benchmark::DoNotOptimize(y.data());
  }
  state.SetItemsProcessed(state.iterations() * 16 * kCols);
}

void PackRows(benchmark::State& state, int bits) {
  RandomStream random(7);
  const AffineSource source = RandomAffine(random, 2048, kCols, bits, 64, DType::kBF16);
  PackedMatrix w = *PackedMatrix::PackAffine(source.view);
  for (auto _ : state) {
    w.set_affine_rows(0, source.view, {0, 2048});
    benchmark::DoNotOptimize(w.view().data);
  }
  state.SetBytesProcessed(state.iterations() * w.bytes());
}

void PackFloatRows(benchmark::State& state, DType dtype) {
  RandomStream random(7);
  const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, 2048 * kCols), dtype);
  PackedMatrix w = *PackedMatrix::PackFloat(bytes.data(), dtype, 2048, kCols, kCols);
  for (auto _ : state) {
    w.set_float_rows(0, bytes.data(), kCols, {0, 2048});
    benchmark::DoNotOptimize(w.view().data);
  }
  state.SetBytesProcessed(state.iterations() * w.bytes());
}

// ---- Bounds ----

void ReadBandwidth(benchmark::State& state) {
  const AlignedMemory memory = *AlignedMemory::Allocate(int64_t{1} << 30);
  auto* words = reinterpret_cast<uint64_t*>(memory.data());
  const int64_t count = memory.bytes() / 8;
  for (int64_t i = 0; i < count; ++i) words[i] = static_cast<uint64_t>(i);
  for (auto _ : state) {
    uint64_t sums[32] = {};
    for (int64_t i = 0; i < count; i += 32) {
      for (int64_t j = 0; j < 32; ++j) sums[j] ^= words[i + j];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(state.iterations() * memory.bytes()) * 1e-9,
                                              benchmark::Counter::kIsRate);
}

void RegisterAll() {
  benchmark::RegisterBenchmark("read_bandwidth", ReadBandwidth);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    benchmark::RegisterBenchmark(("pack/" + std::to_string(bits)).c_str(),
                                 [bits](benchmark::State& s) { PackRows(s, bits); });
  }
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    benchmark::RegisterBenchmark(("pack/" + std::string(DTypeName(dtype))).c_str(),
                                 [dtype](benchmark::State& s) { PackFloatRows(s, dtype); });
  }
  for (const Isa isa : SupportedIsas()) {
    const std::string name(IsaName(isa));
    if (isa == Isa::kReference) continue;
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const int64_t tokens : {1, 4, 12, 64, 512}) {
        benchmark::RegisterBenchmark(
            (name + "/affine" + std::to_string(bits) + "/" + std::to_string(tokens)).c_str(),
            [=](benchmark::State& s) { MatmulAffine(s, isa, bits, tokens); });
      }
    }
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int64_t tokens : {1, 16, 128}) {
        benchmark::RegisterBenchmark(
            (name + "/" + std::string(DTypeName(dtype)) + "/" + std::to_string(tokens)).c_str(),
            [=](benchmark::State& s) { MatmulFloat(s, isa, dtype, tokens); });
      }
    }
    for (const int64_t context : {1024, 8192}) {
      for (const int64_t rows : {1, 64}) {
        benchmark::RegisterBenchmark(
            (name + "/attention/" + std::to_string(context) + "/" + std::to_string(rows)).c_str(),
            [=](benchmark::State& s) { Attention(s, isa, context, rows); });
      }
    }
    benchmark::RegisterBenchmark((name + "/quantize_rows").c_str(),
                                 [=](benchmark::State& s) { QuantizeRows(s, isa); });
    benchmark::RegisterBenchmark((name + "/silu_mul").c_str(), [=](benchmark::State& s) { SiluMul(s, isa); });
  }
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  shoal::RegisterAll();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
