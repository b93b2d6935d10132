// Micro-benchmarks of the kernels on the shapes of Qwen3-1.7B (D 2048, F 6144, 16/8 heads of 128), and of
// their bounds on one thread: read bandwidth, and the rates of the multiply-add units.
//   kernels_bench --benchmark_filter=avx512
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/test_data.h"

namespace shoal {
namespace {

constexpr int64_t kCols = 2048;

/// So many matrices that no cache holds them, because decode reads every weight once per token.
std::vector<PackedMatrix> Weights(const PackedFormat& format, int64_t rows, int64_t total_bytes) {
  RandomStream random(1);
  const AffineSource source = RandomAffine(random, rows, kCols, format.bits, format.group, format.dtype);
  std::vector<PackedMatrix> weights;
  int64_t bytes = 0;
  while (weights.empty() || bytes < total_bytes) {
    weights.push_back(*PackedMatrix::PackAffine(source.view));
    bytes += weights.back().bytes();
  }
  return weights;
}

void MatmulAffine(benchmark::State& state, Isa isa, const PackedFormat& format, int64_t tokens) {
  const Kernels& kernels = SelectKernels(isa);
  RandomStream random(2);
  const int64_t rows = 6144;
  // Weights come from memory if reading may be the bound: an expert gets one to three rows in a step of a few
  // sequences.
  const std::vector<PackedMatrix> weights = Weights(format, rows, tokens <= 3 ? int64_t{1} << 30 : 0);
  const QuantizedStorage x = Quantize(kernels, RandomFloats(random, tokens * kCols), kCols, format.group);
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

/// A product with float weights. A call takes `tiles` tiles of 16 rows: a few are what a thread has of a router.
struct FloatShape {
  DType dtype;
  int64_t tokens, rows, tiles;
};

void MatmulFloat(benchmark::State& state, Isa isa, const FloatShape& shape) {
  const Kernels& kernels = SelectKernels(isa);
  RandomStream random(3);
  const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, shape.rows * kCols), shape.dtype);
  std::vector<PackedMatrix> weights;
  // A large matrix comes from memory if reading may be the bound; a small one stays in a cache.
  for (int i = 0; i < (shape.tokens == 1 && shape.rows >= 2048 ? 64 : 1); ++i) {
    weights.push_back(*PackedMatrix::PackFloat(bytes.data(), shape.dtype, shape.rows, kCols, kCols));
  }
  const std::vector<float> x = RandomFloats(random, shape.tokens * kCols);
  std::vector<float> y(static_cast<size_t>(shape.tokens * shape.rows));
  size_t next = 0;
  for (auto _ : state) {
    const PackedView w = weights[next++ % weights.size()].view();
    for (int64_t tile = 0; tile < w.tiles(); tile += shape.tiles) {
      kernels.matmul_float({.x = ConstView(x, kCols),
                            .w = w,
                            .y = View(y, shape.rows),
                            .tiles = {tile, std::min(tile + shape.tiles, w.tiles())}});
    }
    benchmark::DoNotOptimize(y.data());
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] =
      benchmark::Counter(runs * static_cast<double>(weights[0].bytes()) * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(
      runs * 2e-9 * static_cast<double>(shape.tokens * shape.rows * kCols), benchmark::Counter::kIsRate);
}

/// Attention of the last `rows` positions of a context: 1 is decode, more are a chunk of a prompt.
struct AttentionShape {
  int64_t context, rows, group;
  DType dtype = DType::kF16;
  int64_t kv_heads() const { return group == 2 ? 8 : 4; }  ///< Group 2: Qwen3-1.7B. Group 8: Qwen3-30B-A3B.
};
constexpr int64_t kHeadDim = 128;

/// Layers of a cache that hold the same `context` positions, allocated as KvCache does.
struct FilledCaches {
  std::vector<AlignedMemory> memory;
  std::vector<KvLayerView> views;
  std::vector<BlockId> blocks;

  FilledCaches(const Kernels& kernels, const AttentionShape& shape, int64_t total_bytes) {
    const int64_t count = (shape.context + kBlockPositions - 1) / kBlockPositions;
    const int64_t half = KvBlockBytes(shape.kv_heads(), kHeadDim, shape.dtype);
    for (int64_t b = 0; b < count; ++b) blocks.push_back(BlockId{static_cast<int32_t>(b)});
    RandomStream random(4);
    do {
      memory.push_back(*AlignedMemory::Allocate(2 * half * count));
      std::byte* keys = memory.back().data();
      views.push_back({.keys = keys,
                       .values = keys + half,
                       .block_stride = 2 * half,
                       .kv_heads = shape.kv_heads(),
                       .head_dim = kHeadDim,
                       .dtype = shape.dtype});
      std::vector<float> row = RandomFloats(random, shape.kv_heads() * kHeadDim);
      for (int64_t p = 0; p < shape.context; ++p) {
        std::swap(row[static_cast<size_t>(p % kHeadDim)], row[static_cast<size_t>(random.below(row.size()))]);
        kernels.append_kv({.cache = views.back(),
                           .block = blocks[static_cast<size_t>(p / kBlockPositions)],
                           .position = p,
                           .key = row.data(),
                           .value = row.data(),
                           .kv_heads = {0, shape.kv_heads()}});
      }
    } while (static_cast<int64_t>(memory.size()) * memory.back().bytes() < total_bytes);
  }
};

// GB/s counts the keys and values of each position once. GFLOP/s counts the two products over the positions
// that each row sees. Decode cycles through so many layers that no CPU cache holds them.
void Attention(benchmark::State& state, Isa isa, const AttentionShape& shape) {
  const Kernels& kernels = SelectKernels(isa);
  const FilledCaches caches(kernels, shape, shape.rows == 1 ? int64_t{256} << 20 : 0);
  const int64_t cols = shape.kv_heads() * shape.group * kHeadDim;
  RandomStream random(4);
  const std::vector<float> query = RandomFloats(random, shape.rows * cols);
  std::vector<float> out(query.size());
  std::vector<AttentionRow> rows;
  int64_t positions = 0;
  for (int64_t r = 0; r < shape.rows; ++r) {
    rows.push_back({.query = query.data() + r * cols,
                    .out = out.data() + r * cols,
                    .blocks = caches.blocks.data(),
                    .positions = {0, shape.context - shape.rows + 1 + r}});
    positions += rows.back().positions.size();
  }
  size_t next = 0;
  for (auto _ : state) {
    kernels.attention({.cache = caches.views[next++ % caches.views.size()],
                       .group = shape.group,
                       .scale = 0.088f,
                       .rows = rows.data(),
                       .row_range = {0, shape.rows},
                       .kv_heads = {0, shape.kv_heads()}});
    benchmark::DoNotOptimize(out.data());
  }
  const double runs = static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(runs * 1e-9 * static_cast<double>(caches.memory[0].bytes()),
                                              benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(runs * 4e-9 * static_cast<double>(positions * cols), benchmark::Counter::kIsRate);
}

// Writes a chunk of a prompt into the cache, position by position.
void AppendKv(benchmark::State& state, Isa isa, DType dtype) {
  const Kernels& kernels = SelectKernels(isa);
  const AttentionShape shape{.context = 512, .rows = 512, .group = 2, .dtype = dtype};
  FilledCaches caches(kernels, shape, 0);
  const int64_t cols = shape.kv_heads() * kHeadDim;
  RandomStream random(4);
  const std::vector<float> key = RandomFloats(random, shape.rows * cols);
  for (auto _ : state) {
    for (int64_t p = 0; p < shape.rows; ++p) {
      benchmark::DoNotOptimize(
          kernels.append_kv({.cache = caches.views[0],
                             .block = caches.blocks[static_cast<size_t>(p / kBlockPositions)],
                             .position = p,
                             .key = key.data() + p * cols,
                             .value = key.data() + p * cols,
                             .kv_heads = {0, shape.kv_heads()}}));
    }
  }
  state.SetItemsProcessed(state.iterations() * 2 * shape.rows * cols);
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

#if defined(__x86_64__)
// The f32 peak of one thread: multiply-adds on registers, in enough independent chains to hide their latency.
// In assembly, because this file is compiled without flags for instruction sets.
template <int kVectorBytes>
void FmaPeak(benchmark::State& state) {
  constexpr int kChains = 12, kRounds = 1000;
  for (auto _ : state) {
    for (int round = 0; round < kRounds; ++round) {
      if constexpr (kVectorBytes == 64) {
        asm volatile(
            ".irp r,4,5,6,7,8,9,10,11,12,13,14,15\n\tvfmadd231ps %%zmm0, %%zmm1, %%zmm\\r\n\t.endr" ::
                : "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                  "xmm15");
      } else {
        asm volatile(
            ".irp r,4,5,6,7,8,9,10,11,12,13,14,15\n\tvfmadd231ps %%ymm0, %%ymm1, %%ymm\\r\n\t.endr" ::
                : "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                  "xmm15");
      }
    }
  }
  state.counters["GFLOP/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * kRounds * kChains * 2e-9 * (kVectorBytes / 4),
      benchmark::Counter::kIsRate);
}
#endif

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
#if defined(__x86_64__)
    benchmark::RegisterBenchmark((name + "/fma_peak").c_str(),
                                 isa <= Isa::kAvxVnni ? FmaPeak<32> : FmaPeak<64>);
#endif
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const int64_t tokens : {1, 2, 3, 4, 16, 64, 512}) {
        benchmark::RegisterBenchmark(
            (name + "/affine" + std::to_string(bits) + "/" + std::to_string(tokens)).c_str(),
            [=](benchmark::State& s) {
              MatmulAffine(s, isa, {.dtype = DType::kBF16, .bits = bits, .group = 64}, tokens);
            });
      }
    }
    for (const int64_t tokens : {1, 2, 4, 16, 128}) {
      benchmark::RegisterBenchmark(
          (name + "/q6_k/" + std::to_string(tokens)).c_str(), [=](benchmark::State& s) {
            MatmulAffine(s, isa, {.dtype = DType::kF32, .bits = 6, .group = 16}, tokens);
          });
    }
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const std::string type = name + "/" + std::string(DTypeName(dtype)) + "/";
      for (const int64_t tokens : {1, 4, 16, 128}) {
        const FloatShape shape{dtype, tokens, 2048, 2048 / kTileRows};
        benchmark::RegisterBenchmark((type + std::to_string(tokens)).c_str(),
                                     [=](benchmark::State& s) { MatmulFloat(s, isa, shape); });
      }
      for (const int64_t tokens : {1, 2, 3, 4, 8}) {
        for (const int64_t tiles : {1, 2, 4}) {
          const FloatShape shape{dtype, tokens, 64, tiles};
          benchmark::RegisterBenchmark(
              (type + std::to_string(tokens) + "/tiles:" + std::to_string(tiles)).c_str(),
              [=](benchmark::State& s) { MatmulFloat(s, isa, shape); });
        }
      }
    }
    for (const int64_t group : {2, 8}) {
      for (const int64_t context : {512, 2048, 8192, 32768}) {
        for (const int64_t rows : {1, 64, 512}) {
          for (const DType dtype : {DType::kF16, DType::kI8}) {
            const std::string shape = "/group:" + std::to_string(group) +
                                      "/context:" + std::to_string(context) +
                                      "/rows:" + std::to_string(rows) + "/" + std::string(DTypeName(dtype));
            benchmark::RegisterBenchmark((name + "/attention" + shape).c_str(), [=](benchmark::State& s) {
              Attention(s, isa, {context, rows, group, dtype});
            });
          }
        }
      }
    }
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kI8}) {
      benchmark::RegisterBenchmark((name + "/append_kv/" + std::string(DTypeName(dtype))).c_str(),
                                   [=](benchmark::State& s) { AppendKv(s, isa, dtype); });
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
