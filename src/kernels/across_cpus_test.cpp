// Digests of the reference's bits on fixed inputs, the same for all kinds of CPU. kernels_test.cpp compares
// the instruction sets of one CPU with each other; CPUs of different kinds are compared through the digests
// here.
#include <gtest/gtest.h>

#include <bit>
#include <initializer_list>

#include "kernels/test_data.h"
#include "numeric/rope_table.h"

namespace shoal {
namespace {

const Kernels& Reference() { return SelectKernels(Isa::kReference); }

/// FNV-1a over the bits of values.
class Digest {
 public:
  void add(const std::vector<float>& values) {
    for (const float value : values) {
      hash_ = (hash_ ^ std::bit_cast<uint32_t>(value)) * 0x100000001b3u;
    }
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

TEST(AcrossCpus, ProductsOfQuantizedRowsAreTheSameBits) {
  Digest digest;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      RandomStream random(21, static_cast<uint64_t>(bits));
      const AffineSource source = RandomAffine(random, 32, 256, bits, 64, DType::kF16);
      const PackedMatrix w = *PackedMatrix::PackAffine(source.view);
      const std::vector<float> x = RandomFloats(random, 5 * 256, kind);
      const QuantizedStorage quantized = Quantize(Reference(), x, 256, 64);
      std::vector<float> y(5 * 32);
      Reference().matmul_affine(
          {.x = quantized.rows, .w = w.view(), .y = View(y, 32), .tiles = w.view().all_tiles()});
      digest.add(y);
      digest.add(quantized.scales);
      Reference().matmul_float(
          {.x = ConstView(x, 256), .w = w.view(), .y = View(y, 32), .tiles = w.view().all_tiles()});
      digest.add(y);
    }
  }
  EXPECT_EQ(digest.value(), 0x2d1c84caf7e26963u);
}

TEST(AcrossCpus, ProductsOfFloatRowsAreTheSameBits) {
  Digest digest;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      RandomStream random(27);
      const int64_t cols = 700;
      const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, 32 * cols, kind), dtype);
      const PackedMatrix w = *PackedMatrix::PackFloat(bytes.data(), dtype, 32, cols, cols);
      const std::vector<float> x = RandomFloats(random, 5 * cols, kind);
      std::vector<float> y(5 * 32);
      Reference().matmul_float(
          {.x = ConstView(x, cols), .w = w.view(), .y = View(y, 32), .tiles = w.view().all_tiles()});
      digest.add(y);
    }
  }
  EXPECT_EQ(digest.value(), 0x5a0e684c39129476u);
}

TEST(AcrossCpus, NormsGatesAndRotationsAreTheSameBits) {
  Digest digest;
  for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
    RandomStream random(22);
    const int64_t cols = 200, rows = 20;
    const std::vector<float> x = RandomFloats(random, rows * cols, kind);
    const std::vector<float> up = RandomFloats(random, rows * cols, kind);
    std::vector<float> y(x.size());
    Reference().rms_norm(
        {.x = ConstView(x, cols), .weight = up.data(), .eps = 1e-6f, .y = View(y, cols), .rows = {0, rows}});
    digest.add(y);
    Reference().silu_mul(
        {.gate = ConstView(x, cols), .up = ConstView(up, cols), .out = View(y, cols), .rows = {0, rows}});
    digest.add(y);
    std::vector<float> cosine(rows * cols / 2), sine(cosine.size());
    const std::vector<float> frequencies = RopeInverseFrequencies(1e6, cols);
    for (int64_t row = 0; row < rows; ++row) {
      RopeRow(frequencies, row * 1009, 1.0f, cosine.data() + row * cols / 2, sine.data() + row * cols / 2);
    }
    Reference().rope({.x = View(y, cols),
                      .heads = 1,
                      .head_dim = cols,
                      .rotary = cols,
                      .cosine = ConstView(cosine, cols / 2),
                      .sine = ConstView(sine, cols / 2),
                      .rows = {0, rows}});
    digest.add(y);
  }
  EXPECT_EQ(digest.value(), 0x62f50e2aae8025d7u);
}

uint64_t AttentionDigest(std::initializer_list<DType> dtypes, Values kind) {
  Digest digest;
  for (const DType dtype : dtypes) {
    RandomStream random(23);
    const int64_t positions = 600, head_dim = 48, heads = 4;
    CacheStorage cache = MakeCache(positions / kBlockPositions + 1, 2, head_dim, dtype);
    std::vector<BlockId> blocks;
    for (int32_t b = 0; b <= positions / kBlockPositions; ++b) blocks.push_back(BlockId{b});
    for (int64_t position = 0; position < positions; ++position) {
      const std::vector<float> key = RandomFloats(random, 2 * head_dim, kind);
      const std::vector<float> value = RandomFloats(random, 2 * head_dim, kind);
      Reference().append_kv({.cache = cache.view,
                             .block = blocks[static_cast<size_t>(position / kBlockPositions)],
                             .position = position,
                             .key = key.data(),
                             .value = value.data(),
                             .kv_heads = {0, 2}});
    }
    const std::vector<float> query = RandomFloats(random, heads * head_dim);
    std::vector<float> out(query.size());
    const AttentionRow row{query.data(), out.data(), blocks.data(), {3, positions}};
    Reference().attention({.cache = cache.view,
                           .group = heads / 2,
                           .scale = 0.125f,
                           .rows = &row,
                           .row_range = {0, 1},
                           .kv_heads = {0, 2}});
    digest.add(out);
  }
  return digest.value();
}

TEST(AcrossCpus, AttentionOverEveryCacheIsTheSameBits) {
  EXPECT_EQ(AttentionDigest({DType::kF32, DType::kF16, DType::kBF16}, Values::kEdge), 0x44976398efd3d420u);
  EXPECT_EQ(AttentionDigest({DType::kI8}, Values::kEdge), 0xddcfa38c8ceb3425u);
  EXPECT_EQ(AttentionDigest({DType::kI8}, Values::kOrdinary), 0xc2b0b4e0997e9b3cu);
}

TEST(AcrossCpus, RoutingAndSumsOfExpertsAreTheSameBits) {
  RandomStream random(24);
  const int64_t experts = 128, k = 8, rows = 20;
  const std::vector<float> logits = RandomFloats(random, rows * experts);
  std::vector<int32_t> ids(rows * k);
  std::vector<float> weights(ids.size());
  ASSERT_TRUE(Reference().route({.logits = ConstView(logits, experts),
                                 .k = k,
                                 .ids = View(ids, k),
                                 .weights = View(weights, k),
                                 .rows = {0, rows}}));
  Digest digest;
  digest.add(weights);
  digest.add(std::vector<float>(ids.begin(), ids.end()));
  std::vector<int64_t> acc(static_cast<size_t>(experts), 0);
  const std::vector<int32_t> targets(rows, 0);
  ASSERT_TRUE(Reference().accumulate_fixed({.y = ConstView(logits, experts),
                                            .weights = weights.data(),
                                            .targets = targets.data(),
                                            .acc = View(acc, experts),
                                            .cols = {0, experts}}));
  std::vector<float> y(acc.size());
  Reference().fixed_to_float(
      {.acc = ConstView(acc, experts), .y = View(y, experts), .store = FixedStore::kAssign, .rows = {0, 1}});
  digest.add(y);
  EXPECT_EQ(digest.value(), 0xbd05f2ecd656e128u);
}

TEST(AcrossCpus, RecurrentLayersAreTheSameBits) {
  Digest digest;
  for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
    RandomStream random(25);
    const int64_t rows = 9, cols = 3 * 24;  // Queries, keys and values of one head.
    const std::vector<float> x = RandomFloats(random, rows * cols, kind);
    const std::vector<float> before = RandomFloats(random, 3 * cols, kind);
    const std::vector<float> taps = RandomFloats(random, 4 * cols, kind);
    std::vector<float> mixed(x.size()), gated(x.size()), out(static_cast<size_t>(rows * 24));
    Reference().causal_conv({.x = ConstView(x, cols),
                             .before = ConstView(before, cols),
                             .weight = taps.data(),
                             .out = View(mixed, cols),
                             .cols = {0, cols}});
    Reference().sigmoid_mul({.gate = ConstView(x, cols),
                             .up = ConstView(mixed, cols),
                             .out = View(gated, cols),
                             .rows = {0, rows}});
    digest.add(mixed);
    digest.add(gated);
    const std::vector<float> gates(static_cast<size_t>(rows), 0.75f);
    std::vector<float> state = RandomFloats(random, 24 * 24, kind);
    const MatView<const float> all = ConstView(gated, cols);
    Reference().delta_rule({.query = all.cols_between(0, 24),
                            .key = all.cols_between(24, 48),
                            .value = all.cols_between(48, 72),
                            .decay = ConstView(gates, 1),
                            .beta = ConstView(gates, 1),
                            .state_in = state.data(),
                            .state_out = state.data(),
                            .out = View(out, 24)});
    digest.add(out);
    digest.add(state);
  }
  EXPECT_EQ(digest.value(), 0x15d545f3d8a1c0fu);
}

TEST(AcrossCpus, SelectiveScansAreTheSameBits) {
  Digest digest;
  for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
    RandomStream random(26);
    const int64_t rows = 9, channels = 24, state_dim = 8, cols = 2 * channels + 2 * state_dim;
    const std::vector<float> mixed = RandomFloats(random, rows * cols, kind);
    const std::vector<float> rate = RandomFloats(random, state_dim * channels, kind);
    const std::vector<float> skip = RandomFloats(random, channels, kind);
    std::vector<float> state = RandomFloats(random, state_dim * channels, kind);
    std::vector<float> out(static_cast<size_t>(rows * channels));
    // The sigmoids of what the rows hold, as steps are positive, and rates are not.
    std::vector<float> steps(out.size()), ones(out.size(), 1.0f), rates(rate.size()),
        minus(rate.size(), -4.0f);
    const MatView<const float> all = ConstView(mixed, cols);
    Reference().sigmoid_mul({.gate = all.cols_between(channels, 2 * channels),
                             .up = ConstView(ones, channels),
                             .out = View(steps, channels),
                             .rows = {0, rows}});
    Reference().sigmoid_mul({.gate = ConstView(rate, channels),
                             .up = ConstView(minus, channels),
                             .out = View(rates, channels),
                             .rows = {0, state_dim}});
    Reference().selective_scan({.x = all.cols_between(0, channels),
                                .step = ConstView(steps, channels),
                                .key = all.cols_between(2 * channels, 2 * channels + state_dim),
                                .query = all.cols_between(2 * channels + state_dim, cols),
                                .rate = rates.data(),
                                .skip = skip.data(),
                                .state_in = state.data(),
                                .state_out = state.data(),
                                .out = View(out, channels),
                                .cols = {0, channels}});
    digest.add(out);
    digest.add(state);
  }
  EXPECT_EQ(digest.value(), 0x5ae65c478d5160f1u);
}

}  // namespace
}  // namespace shoal
