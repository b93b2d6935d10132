// Every kernel of every instruction set gives the bits of the reference, on edge shapes, on real shapes, and
// for any cut of its range. Driven by the kernel list: a kernel without a case below does not compile.
// long: a case for each kernel of the list, which one macro below calls
#include "kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>

#include "kernels/test_data.h"
#include "kernels/test_recurrent.h"
#if defined(__x86_64__)
#include "kernels/amx_emulated.h"
#endif

namespace shoal {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::array kFloatTypes = {DType::kF32, DType::kF16, DType::kBF16};
constexpr std::array kCacheTypes = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};

/// The reference table and the table under test.
struct Pair {
  const Kernels& reference;
  const Kernels& tested;
};

// ---- Quantized activations ----

void ExpectSameQuantized(const Pair& pair, const std::vector<float>& x, int64_t cols, int group) {
  const QuantizedStorage expected = Quantize(pair.reference, x, cols, group);
  const QuantizedStorage got = Quantize(pair.tested, x, cols, group);
  EXPECT_EQ(got.codes, expected.codes);
  EXPECT_EQ(Bits(got.scales), Bits(expected.scales));
  EXPECT_EQ(Bits(got.sums), Bits(expected.sums));
}

void Case_quantize_rows(const Pair& pair) {
  RandomStream random(1);
  for (const int group : {16, 32, 64, 128}) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      ExpectSameQuantized(pair, RandomFloats(random, 7 * 5 * group, kind), 5 * group, group);
    }
    // Values around the threshold below which a group is zero, exact ties, and the largest floats.
    std::vector<float> x(static_cast<size_t>(4 * group), 0.0f);
    x[0] = 127.0f * 0x1p-126f;
    x[static_cast<size_t>(group)] = std::nextafter(127.0f * 0x1p-126f, 0.0f);
    for (int i = 0; i < group; ++i) x[static_cast<size_t>(2 * group + i)] = static_cast<float>(i) - 0.5f;
    x[static_cast<size_t>(2 * group)] = 127.0f;
    x[static_cast<size_t>(3 * group)] = std::numeric_limits<float>::max();
    x[static_cast<size_t>(3 * group + 1)] = std::numeric_limits<float>::lowest();
    ExpectSameQuantized(pair, x, 4 * group, group);
  }
  ExpectSameQuantized(pair, RandomFloats(random, 3 * 2048), 2048, 64);
  for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
    for (const size_t at : {size_t{0}, size_t{63}, size_t{100}}) {
      std::vector<float> x = RandomFloats(random, 128);
      x[at] = bad;
      QuantizedStorage out = MakeQuantized(1, 128, 64);
      const QuantizeRowsArgs args{.x = ConstView(x, 128), .out = out.rows, .rows = {0, 1}};
      EXPECT_FALSE(pair.tested.quantize_rows(args));
      EXPECT_FALSE(pair.reference.quantize_rows(args));
    }
  }
}

// ---- Matrix products ----

struct AffineCase {
  int64_t tokens, rows, cols;
  int bits, group;
  DType dtype;
  Values kind;
};

// Expects y to be the reference's, computed over the whole range and over three ranges one after another.
template <typename Args, typename Run>
void ExpectSameProduct(const Pair& pair, Args args, int64_t tokens, Run run) {
  const int64_t stride = args.w.rows + 3;
  std::vector<float> expected(static_cast<size_t>(tokens * stride), 7.0f);
  args.tiles = args.w.all_tiles();
  args.y = MatView<float>(expected.data(), tokens, args.w.rows, stride);
  run(pair.reference, args);
  for (const int parts : {1, 3}) {
    std::vector<float> got(expected.size(), 7.0f);
    args.y.data = got.data();
    for (int part = 0; part < parts; ++part) {
      args.tiles = StaticRange(args.w.tiles(), 1, part, parts);
      run(pair.tested, args);
    }
    ASSERT_EQ(Bits(got), Bits(expected)) << tokens << " x " << args.w.rows << " x " << args.w.cols << ", "
                                         << args.w.format.bits << " bits, group " << args.w.format.group;
  }
}

void CheckAffine(const Pair& pair, const AffineCase& c) {
  RandomStream random(static_cast<uint64_t>(c.tokens * 1000 + c.rows),
                      static_cast<uint64_t>(c.bits * 1000 + c.group));
  const AffineSource source = RandomAffine(random, c.rows, c.cols, c.bits, c.group, c.dtype);
  const PackedMatrix w = *PackedMatrix::PackAffine(source.view);
  const std::vector<float> x = RandomFloats(random, c.tokens * c.cols, c.kind);
  const QuantizedStorage quantized = Quantize(pair.reference, x, c.cols, c.group);
  ExpectSameProduct(pair, MatmulAffineArgs{.x = quantized.rows, .w = w.view()}, c.tokens,
                    [](const Kernels& k, const MatmulAffineArgs& args) { k.matmul_affine(args); });
}

void Case_matmul_affine(const Pair& pair) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {16, 32, 64, 128}) {
      if (!IsAffineForm(bits, group)) continue;
      const int64_t span = AffineSpan(group);
      for (const DType dtype : kFloatTypes) {
        CheckAffine(pair, {3, 37, 5 * span, bits, group, dtype, Values::kEdge});
        CheckAffine(pair, {21, 49, 11 * span, bits, group, dtype, Values::kEdge});
      }
    }
    for (int64_t tokens = 1; tokens <= 40; ++tokens) {
      CheckAffine(pair, {tokens, 17, 128, bits, 64, DType::kBF16, Values::kOrdinary});
      if (IsAffineForm(bits, 16))
        CheckAffine(pair, {tokens, 49, 128, bits, 16, DType::kF32, Values::kOrdinary});
    }
    CheckAffine(pair, {1, 1, 64, bits, 64, DType::kF16, Values::kOrdinary});
    CheckAffine(pair, {2, 208, 2048, bits, 64, DType::kBF16, Values::kOrdinary});
  }
  // More rows than one pass takes.
  CheckAffine(pair, {300, 33, 4096, 4, 64, DType::kBF16, Values::kOrdinary});
  CheckAffine(pair, {300, 33, 4096, 6, 16, DType::kF32, Values::kOrdinary});
}

// The largest sums: all codes and activations at their extremes, so that a saturating instruction would
// saturate.
void CheckExtremes(const Kernels& kernels, int64_t tokens) {
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    RandomStream random(5);
    AffineSource source = RandomAffine(random, 16, 128, bits, 128, DType::kF32);
    for (uint32_t& word : source.words) word = 0xffffffffu;
    const PackedMatrix w = *PackedMatrix::PackAffine(source.view);
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(static_cast<size_t>(tokens * 128), sign);
      const QuantizedStorage quantized = Quantize(kernels, x, 128, 128);
      std::vector<float> y(static_cast<size_t>(tokens * 16));
      kernels.matmul_affine({.x = quantized.rows, .w = w.view(), .y = View(y, 16), .tiles = {0, 1}});
      for (size_t i = 0; i < y.size(); ++i) {
        const auto n = static_cast<int64_t>(i % 16);
        const float p = AffineScale(source.view, n, 0) * quantized.scales[0];
        const float dot = sign * static_cast<float>(((1 << bits) - 1) * 127 * 128);
        const float expected = std::fma(AffineBias(source.view, n, 0), quantized.sums[0], dot * p);
        EXPECT_EQ(y[i], expected) << IsaName(kernels.isa) << ", " << bits << " bits, " << tokens << " rows";
      }
    }
  }
}

TEST(MatmulAffine, ExtremeCodesDoNotSaturate) {
  for (const Isa isa : SupportedIsas()) {
    for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 20}) CheckExtremes(SelectKernels(isa), tokens);
  }
}

void Case_matmul_float(const Pair& pair) {
  const auto run = [](const Kernels& k, const MatmulFloatArgs& args) { k.matmul_float(args); };
  RandomStream random(2);
  for (const DType dtype : kFloatTypes) {
    for (const auto& [tokens, rows, cols] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                                {1, 17, 33},
                                                                                {1, 200, 31},
                                                                                {2, 16, 7},
                                                                                {3, 47, 100},
                                                                                {9, 80, 65},
                                                                                {17, 33, 5},
                                                                                {2, 512, 1024},
                                                                                {1, 112, 256},
                                                                                {1, 100, 2048},
                                                                                {1, 35, 2047},
                                                                                {1, 20, 257},
                                                                                {2, 47, 1023},
                                                                                {3, 48, 769},
                                                                                {4, 47, 1300},
                                                                                {5, 33, 513},
                                                                                {7, 20, 1793},
                                                                                {19, 50, 600}}) {
      for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
        const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, rows * cols, kind), dtype);
        const PackedMatrix w = *PackedMatrix::PackFloat(bytes.data(), dtype, rows, cols, cols);
        const std::vector<float> x = RandomFloats(random, tokens * cols, kind);
        ExpectSameProduct(pair, MatmulFloatArgs{.x = ConstView(x, cols), .w = w.view()}, tokens, run);
      }
    }
  }
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int64_t tokens : {1, 5, 8, 9}) {
      for (const int64_t cols : {192, 256, 832}) {
        for (const int group : {16, 64}) {
          if (!IsAffineForm(bits, group)) continue;
          const AffineSource source = RandomAffine(random, 35, cols, bits, group, DType::kBF16);
          const PackedMatrix w = *PackedMatrix::PackAffine(source.view);
          const std::vector<float> x = RandomFloats(random, tokens * cols, Values::kEdge);
          ExpectSameProduct(pair, MatmulFloatArgs{.x = ConstView(x, cols), .w = w.view()}, tokens, run);
        }
      }
    }
  }
}

// A sum that is lost where it is added to a large one stays where its block is summed on its own: 2^24 + 1 is 2^24 in
// f32, so ones count as soon as they are in another block of 256 columns than the large value.
TEST(MatmulFloat, BlocksOf256ColumnsAreSummedOnTheirOwn) {
  for (const Isa isa : SupportedIsas()) {
    for (const int64_t tokens : {1, 2, 3, 8, 9}) {
      for (const int64_t cols : {256, 257, 600, 2048, 2100}) {
        std::vector<float> weights(static_cast<size_t>(16 * cols), 1.0f);
        for (int64_t n = 0; n < 16; ++n) weights[static_cast<size_t>(n * cols)] = 0x1p24f;
        const PackedMatrix w = *PackedMatrix::PackFloat(weights.data(), DType::kF32, 16, cols, cols);
        const std::vector<float> x(static_cast<size_t>(tokens * cols), 1.0f);
        std::vector<float> y(static_cast<size_t>(tokens * 16));
        SelectKernels(isa).matmul_float(
            {.x = ConstView(x, cols), .w = w.view(), .y = View(y, 16), .tiles = {0, 1}});
        // 2^24 from the first block; then 256 ones, or what the last block has. A sum of 1 alone is lost, too: a tie
        // goes to the even 2^24.
        float expected = 0x1p24f;
        for (int64_t k = 256; k < cols; k += 256)
          expected += static_cast<float>(std::min<int64_t>(256, cols - k));
        for (const float value : y)
          EXPECT_EQ(value, expected) << IsaName(isa) << ", " << tokens << " x " << cols;
      }
    }
  }
}

// ---- Rows ----

constexpr std::array<int64_t, 9> kCols = {1, 2, 15, 16, 17, 64, 100, 128, 2048};

void Case_rms_norm(const Pair& pair) {
  RandomStream random(3);
  for (const int64_t cols : kCols) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      const std::vector<float> x = RandomFloats(random, 3 * cols, kind);
      const std::vector<float> weight = RandomFloats(random, cols);
      std::vector<float> expected(x.size()), got(x.size());
      RmsNormArgs args{.x = ConstView(x, cols),
                       .weight = weight.data(),
                       .eps = 1e-6f,
                       .y = View(expected, cols),
                       .rows = {0, 3}};
      pair.reference.rms_norm(args);
      args.y = View(got, cols);
      pair.tested.rms_norm(args);
      EXPECT_EQ(Bits(got), Bits(expected)) << cols;
      std::vector<float> in_place = x;
      args.x = ConstView(in_place, cols);
      args.y = View(in_place, cols);
      pair.tested.rms_norm(args);
      EXPECT_EQ(Bits(in_place), Bits(expected)) << cols;
    }
  }
}

void Case_layer_norm(const Pair& pair) {
  RandomStream random(18);
  for (const int64_t cols : kCols) {
    for (const bool biased : {false, true}) {
      const std::vector<float> x = RandomFloats(random, 3 * cols, Values::kEdge);
      const std::vector<float> weight = RandomFloats(random, cols);
      const std::vector<float> bias = RandomFloats(random, cols);
      std::vector<float> expected(x.size());
      LayerNormArgs args{.x = ConstView(x, cols),
                         .weight = weight.data(),
                         .bias = biased ? bias.data() : nullptr,
                         .eps = 1e-5f,
                         .y = View(expected, cols),
                         .rows = {0, 3}};
      pair.reference.layer_norm(args);
      std::vector<float> in_place = x;
      args.x = ConstView(in_place, cols);
      args.y = View(in_place, cols);
      pair.tested.layer_norm(args);
      EXPECT_EQ(Bits(in_place), Bits(expected)) << cols;
    }
  }
}

void Case_add_rows(const Pair& pair) {
  RandomStream random(4);
  for (const int64_t cols : kCols) {
    const std::vector<float> x = RandomFloats(random, 3 * cols, Values::kEdge);
    const std::vector<float> y = RandomFloats(random, 3 * cols, Values::kEdge);
    std::vector<float> expected = y, got = y;
    pair.reference.add_rows({.x = ConstView(x, cols), .y = View(expected, cols), .rows = {1, 3}});
    pair.tested.add_rows({.x = ConstView(x, cols), .y = View(got, cols), .rows = {1, 3}});
    EXPECT_EQ(Bits(got), Bits(expected)) << cols;
    const std::vector<float> scales = {kNan, 0.3f, -1e-9f};
    AddRowsArgs scaled{
        .x = ConstView(x, cols), .scales = scales.data(), .y = View(expected, cols), .rows = {1, 3}};
    pair.reference.add_rows(scaled);
    scaled.y = View(got, cols);
    pair.tested.add_rows(scaled);
    EXPECT_EQ(Bits(got), Bits(expected)) << cols;
  }
}

void Case_add_bias(const Pair& pair) {
  RandomStream random(5);
  for (const int64_t cols : kCols) {
    const std::vector<float> bias = RandomFloats(random, cols, Values::kEdge);
    const std::vector<float> y = RandomFloats(random, 3 * cols, Values::kEdge);
    std::vector<float> expected = y, got = y;
    pair.reference.add_bias({.bias = bias.data(), .y = View(expected, cols), .rows = {0, 2}});
    pair.tested.add_bias({.bias = bias.data(), .y = View(got, cols), .rows = {0, 2}});
    EXPECT_EQ(Bits(got), Bits(expected)) << cols;
  }
}

void Case_rope(const Pair& pair) {
  RandomStream random(6);
  for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
    for (const auto& [head_dim, rotary] : std::vector<std::array<int64_t, 2>>{
             {64, 64}, {128, 128}, {100, 100}, {128, 64}, {16, 6}, {10, 2}, {8, 0}}) {
      const int64_t heads = 3, rows = 4;
      const std::vector<float> cosine = RandomFloats(random, rows * rotary / 2 + 1);
      const std::vector<float> sine = RandomFloats(random, rows * rotary / 2 + 1);
      const std::vector<float> x = RandomFloats(random, rows * heads * head_dim, Values::kEdge);
      std::vector<float> expected = x, got = x;
      RopeArgs args{.x = View(expected, heads * head_dim),
                    .heads = heads,
                    .head_dim = head_dim,
                    .rotary = rotary,
                    .cosine = MatView<const float>(cosine.data(), rows, rotary / 2),
                    .sine = MatView<const float>(sine.data(), rows, rotary / 2),
                    .pairing = pairing,
                    .rows = {1, 4}};
      pair.reference.rope(args);
      args.x = View(got, heads * head_dim);
      pair.tested.rope(args);
      EXPECT_EQ(Bits(got), Bits(expected)) << head_dim << ", " << rotary;
    }
  }
}

void Case_silu_mul(const Pair& pair) {
  RandomStream random(7);
  for (const int64_t cols : kCols) {
    std::vector<float> gate = RandomFloats(random, 2 * cols, Values::kEdge);
    if (cols >= 16) {
      const float extremes[] = {88.0f, -88.0f, 87.0f, -87.0f, 88.5f, -88.5f, 1e30f, -1e30f, 3e38f, -3e38f};
      std::copy(std::begin(extremes), std::end(extremes), gate.begin());
    }
    const std::vector<float> up = RandomFloats(random, 2 * cols);
    std::vector<float> expected(gate.size()), got(gate.size());
    pair.reference.silu_mul({.gate = ConstView(gate, cols),
                             .up = ConstView(up, cols),
                             .out = View(expected, cols),
                             .rows = {0, 2}});
    pair.tested.silu_mul(
        {.gate = ConstView(gate, cols), .up = ConstView(up, cols), .out = View(got, cols), .rows = {0, 2}});
    EXPECT_EQ(Bits(got), Bits(expected)) << cols;
  }
  // A dense sweep over the whole range of the exponential.
  std::vector<float> gate;
  for (float x = -90; x < 90; x += 0.0017f) gate.push_back(x);
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> expected(gate.size()), got(gate.size());
  pair.reference.silu_mul({.gate = ConstView(gate, cols),
                           .up = ConstView(up, cols),
                           .out = View(expected, cols),
                           .rows = {0, 1}});
  pair.tested.silu_mul(
      {.gate = ConstView(gate, cols), .up = ConstView(up, cols), .out = View(got, cols), .rows = {0, 1}});
  EXPECT_EQ(Bits(got), Bits(expected));
}

/// Gates over the whole range of the exponential and far beyond, in a number that is not a multiple of 16.
std::vector<float> SweepOfGates() {
  std::vector<float> gates = {0.0f, -0.0f, 1e-30f, -1e-30f, 1e19f, -1e19f, 3e38f, -3e38f};
  for (float x = -90; x < 90; x += 0.0173f) gates.push_back(x);
  return gates;
}

void Case_gelu_mul(const Pair& pair) {
  RandomStream random(17);
  const std::vector<float> gate = SweepOfGates();
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up = RandomFloats(random, cols, Values::kEdge);
  std::vector<float> expected(gate.size()), got(gate.size());
  GeluMulArgs args{
      .gate = ConstView(gate, cols), .up = ConstView(up, cols), .out = View(expected, cols), .rows = {0, 1}};
  pair.reference.gelu_mul(args);
  args.out = View(got, cols);
  pair.tested.gelu_mul(args);
  EXPECT_EQ(Bits(got), Bits(expected));
}

void Case_clamped_swiglu(const Pair& pair) {
  const std::vector<float> gate = SweepOfGates();
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up(gate.rbegin(), gate.rend());
  for (const float limit : {7.0f, 0.0f, 1e30f}) {
    std::vector<float> expected(gate.size()), got(gate.size());
    ClampedSwigluArgs args{.gate = ConstView(gate, cols),
                           .up = ConstView(up, cols),
                           .limit = limit,
                           .out = View(expected, cols),
                           .rows = {0, 1}};
    pair.reference.clamped_swiglu(args);
    args.out = View(got, cols);
    pair.tested.clamped_swiglu(args);
    EXPECT_EQ(Bits(got), Bits(expected)) << limit;
  }
}

void Case_clamped_silu_mul(const Pair& pair) {
  RandomStream random(19);
  std::vector<float> gate = SweepOfGates();
  gate[3] = kNan;
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up = RandomFloats(random, cols, Values::kEdge);
  for (const float limit : {1.5f, 16.0f}) {
    std::vector<float> expected(gate.size()), got(gate.size());
    ClampedSiluMulArgs args{.gate = ConstView(gate, cols),
                            .up = ConstView(up, cols),
                            .limit = limit,
                            .out = View(expected, cols),
                            .rows = {0, 1}};
    pair.reference.clamped_silu_mul(args);
    args.out = View(got, cols);
    pair.tested.clamped_silu_mul(args);
    EXPECT_EQ(Bits(got), Bits(expected)) << limit;
  }
}

void Case_activate(const Pair& pair) {
  std::vector<float> x = SweepOfGates();
  x[2] = kNan;
  const auto cols = static_cast<int64_t>(x.size());
  for (const Activation activation : {Activation::kGelu, Activation::kRelu2, Activation::kXielu}) {
    std::vector<float> expected(x.size());
    std::vector<float> in_place = x;
    ActivateArgs args{.x = ConstView(x, cols),
                      .activation = activation,
                      .xielu = {.positive = 0.8f, .negative = 1.1f, .slope = 0.5f, .top = -1e-6f},
                      .out = View(expected, cols),
                      .rows = {0, 1}};
    pair.reference.activate(args);
    args.x = ConstView(in_place, cols);
    args.out = View(in_place, cols);
    pair.tested.activate(args);
    EXPECT_EQ(Bits(in_place), Bits(expected)) << static_cast<int>(activation);
    EXPECT_NE(expected[2], expected[2]) << "NaN stays NaN";
  }
}

void Case_sigmoid_mul(const Pair& pair) {
  RandomStream random(18);
  const std::vector<float> gate = SweepOfGates();
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up = RandomFloats(random, cols, Values::kEdge);
  std::vector<float> expected(gate.size()), got(gate.size());
  SigmoidMulArgs args{
      .gate = ConstView(gate, cols), .up = ConstView(up, cols), .out = View(expected, cols), .rows = {0, 1}};
  pair.reference.sigmoid_mul(args);
  args.out = View(got, cols);
  pair.tested.sigmoid_mul(args);
  EXPECT_EQ(Bits(got), Bits(expected));
}

// ---- Recurrent layers ----

void Case_causal_conv(const Pair& pair) {
  RandomStream random(19);
  for (const auto& [rows, cols, width] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 4}, {5, 37, 4}, {2, 16, 4}, {9, 50, 2}, {3, 20, 1}, {20, 640, 4}}) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      const std::vector<float> x = RandomFloats(random, rows * cols, kind);
      const std::vector<float> before = RandomFloats(random, (width - 1) * cols + 1, kind);
      const std::vector<float> weight = RandomFloats(random, width * cols, kind);
      std::vector<float> expected(x.size(), 7.0f), got(x.size(), 7.0f);
      CausalConvArgs args{.x = ConstView(x, cols),
                          .before = MatView<const float>(before.data(), width - 1, cols),
                          .weight = weight.data()};
      const std::vector<float> bias = RandomFloats(random, cols, kind);
      for (const ConvActivation activation : {ConvActivation::kSilu, ConvActivation::kNone}) {
        args.activation = activation;
        args.out = View(expected, cols);
        args.cols = {0, cols};
        pair.reference.causal_conv(args);
        args.out = View(got, cols);
        for (int part = 0; part < 3; ++part) {
          args.cols = StaticRange(cols, 1, part, 3);
          pair.tested.causal_conv(args);
        }
        EXPECT_EQ(Bits(got), Bits(expected)) << rows << " x " << cols << ", width " << width;
        args.bias = bias.data();
      }
    }
  }
}

void Case_delta_rule(const Pair& pair) {
  RandomStream random(20);
  for (const auto& [rows, keys, values] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {4, 12, 20}, {3, 32, 32}, {7, 16, 100}, {2, 128, 128}, {9, 5, 64}, {40, 24, 48}}) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      DeltaProblem problem(random, rows, keys, values, kind);
      for (const StateRule rule : {StateRule::kDelta, StateRule::kAdd}) {
        for (const bool by_channel : {false, true}) {
          problem.rule = rule;
          problem.by_channel = by_channel;
          const std::vector<uint32_t> expected = Bits(problem.run(pair.reference, rows));
          for (const int64_t cut : {rows, rows / 2}) {
            EXPECT_EQ(Bits(problem.run(pair.tested, cut)), expected)
                << rows << ", " << keys << ", " << values;
          }
        }
      }
    }
  }
}

void Case_selective_scan(const Pair& pair) {
  RandomStream random(33);
  for (const auto& [rows, channels, state_dim] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {4, 20, 12}, {3, 32, 16}, {7, 100, 5}, {2, 640, 16}, {40, 48, 8}}) {
    for (const Values kind : {Values::kOrdinary, Values::kEdge}) {
      const ScanProblem problem(random, rows, channels, state_dim, kind);
      const std::vector<uint32_t> expected = Bits(problem.run(pair.reference, rows, 1));
      for (const int64_t cut : {rows, rows / 2}) {
        for (const int parts : {1, 3}) {
          EXPECT_EQ(Bits(problem.run(pair.tested, cut, parts)), expected)
              << rows << ", " << channels << ", " << state_dim;
        }
      }
    }
  }
}

// ---- Attention ----

void Case_append_kv(const Pair& pair) {
  RandomStream random(8);
  for (const DType dtype : kCacheTypes) {
    for (const int64_t head_dim : {16, 64, 128, 100, 7, 576}) {
      std::vector<float> key = RandomFloats(random, 3 * head_dim, Values::kEdge);
      std::vector<float> value = RandomFloats(random, 3 * head_dim, Values::kEdge);
      // The last is a NaN whose bits, rounded as a number, would become -0.
      const float extremes[] = {
          65504.0f, 65519.9f, 65520.0f, -1e30f, kInfinity, -kInfinity, std::bit_cast<float>(0x7fffffffu)};
      std::copy(std::begin(extremes), std::end(extremes), key.begin());
      std::copy(std::begin(extremes), std::end(extremes), value.end() - 7);
      CacheStorage expected = MakeCache(2, 3, head_dim, dtype);
      CacheStorage got = MakeCache(2, 3, head_dim, dtype);
      for (const int64_t position : {0, 31, 77}) {
        if (dtype == DType::kI8) {
          std::fill_n(value.begin() + head_dim, head_dim, position == 77 ? 0x1p-140f : 3e38f);
        }
        AppendKvArgs args{.cache = expected.view,
                          .block = BlockId{1},
                          .position = position,
                          .key = key.data(),
                          .value = value.data(),
                          .kv_heads = {0, 3}};
        const int64_t saturated = pair.reference.append_kv(args);
        EXPECT_EQ(saturated, dtype == DType::kF16 ? 8 : 0);
        args.cache = got.view;
        EXPECT_EQ(pair.tested.append_kv(args), saturated);
      }
      EXPECT_EQ(got.memory, expected.memory) << head_dim;
      if (dtype == DType::kI8) continue;  // Keys of an indexer are numbers.
      // Without values: the keys of another block, and nothing else.
      AppendKvArgs keys_alone{
          .cache = expected.view, .block = BlockId{0}, .position = 5, .key = key.data(), .kv_heads = {0, 3}};
      const int64_t saturated = pair.reference.append_kv(keys_alone);
      EXPECT_EQ(saturated, dtype == DType::kF16 ? 4 : 0);
      keys_alone.cache = got.view;
      EXPECT_EQ(pair.tested.append_kv(keys_alone), saturated);
      EXPECT_EQ(got.memory, expected.memory) << head_dim;
      EXPECT_TRUE(std::all_of(got.view.values, got.view.values + KvBlockBytes(3, head_dim, dtype),
                              [](std::byte byte) { return byte == std::byte{0xff}; }));
    }
  }
}

struct AttentionShape {
  int64_t kv_heads, group, head_dim;
  DType dtype;
  std::vector<Range> rows;  ///< Visible positions of each query row.
  size_t sequences = 1;     ///< Each has equally many of the rows, in order.
  Values values = Values::kOrdinary;
};

/// Queries, and a cache that is filled, through a shuffled block table, to the last visible position of each
/// sequence.
struct AttentionProblem {
  CacheStorage cache;
  std::vector<std::vector<BlockId>> blocks;
  std::vector<float> query;
  std::vector<float> out;
  std::vector<AttentionRow> rows;
  int64_t row_floats = 0;

  AttentionProblem(const Kernels& kernels, const AttentionShape& shape) {
    RandomStream random(9);
    const auto sequence_of = [&](size_t row) { return row * shape.sequences / shape.rows.size(); };
    std::vector<int64_t> ends(shape.sequences, 0);
    for (size_t r = 0; r < shape.rows.size(); ++r) {
      ends[sequence_of(r)] = std::max(ends[sequence_of(r)], shape.rows[r].end);
    }
    int32_t count = 0;
    for (const int64_t end : ends) {
      blocks.emplace_back();
      for (int64_t p = 0; p < end; p += kBlockPositions) blocks.back().push_back(BlockId{++count});
      std::reverse(blocks.back().begin(), blocks.back().end());
    }
    cache = MakeCache(count + 1, shape.kv_heads, shape.head_dim, shape.dtype);
    for (size_t s = 0; s < shape.sequences; ++s) {
      for (int64_t position = 0; position < ends[s]; ++position) {
        const int64_t floats = shape.kv_heads * shape.head_dim;
        const std::vector<float> key = RandomFloats(random, floats, shape.values);
        const std::vector<float> value = RandomFloats(random, floats, shape.values);
        kernels.append_kv({.cache = cache.view,
                           .block = blocks[s][static_cast<size_t>(position / kBlockPositions)],
                           .position = position,
                           .key = key.data(),
                           .value = value.data(),
                           .kv_heads = {0, shape.kv_heads}});
      }
    }
    row_floats = shape.kv_heads * shape.group * shape.head_dim;
    query = RandomFloats(random, static_cast<int64_t>(shape.rows.size()) * row_floats);
    out.resize(query.size(), 7.0f);
    for (size_t r = 0; r < shape.rows.size(); ++r) {
      const int64_t offset = static_cast<int64_t>(r) * row_floats;
      rows.push_back(
          {query.data() + offset, out.data() + offset, blocks[sequence_of(r)].data(), shape.rows[r]});
    }
  }
};

/// Rows at positions [begin, end). Each sees itself and the positions before it, at most `window` in all.
std::vector<Range> PromptRows(int64_t begin, int64_t end, int64_t window = INT64_MAX) {
  std::vector<Range> rows;
  for (int64_t p = begin; p < end; ++p) rows.push_back({std::max<int64_t>(0, p + 1 - window), p + 1});
  return rows;
}

std::vector<AttentionShape> AttentionShapes() {
  std::vector<AttentionShape> shapes = {
      {1, 1, 64, DType::kF16, {{0, 1}}},
      {2, 2, 128, DType::kF16, {{0, 33}, {0, 1600}}},
      {2, 4, 64, DType::kBF16, {{511, 513}, {0, 512}, {0, 513}, {1000, 1100}}},
      {1, 3, 100, DType::kF16, {{5, 700}}},
      {1, 12, 32, DType::kF32, {{0, 45}, {0, 1200}}},
      {3, 1, 7, DType::kF16, {{0, 40}}},
      // Rows that share a pass and see no position in common.
      {2, 1, 48, DType::kF16, {{0, 10}, {100, 110}, {20, 300}, {64, 96}, {95, 97}}},
      // Chunks of a prompt: from its start, across a boundary of splits, with more rows than share a pass.
      {2, 2, 64, DType::kF16, PromptRows(0, 70)},
      {1, 5, 80, DType::kF32, PromptRows(0, 70)},
      {2, 2, 32, DType::kBF16, PromptRows(470, 550)},
      {1, 1, 16, DType::kF16, PromptRows(3, 200)},
      // Windows within one split and across several.
      {1, 2, 64, DType::kF16, PromptRows(40, 90, 37)},
      {1, 8, 16, DType::kF16, PromptRows(1500, 1520, 600)},
      {2, 1, 16, DType::kF32, PromptRows(1000, 1040, 9)},
      // Batches: one row of each sequence, several rows of each.
      {2, 4, 32, DType::kF16, {{0, 70}, {0, 1}, {0, 600}, {0, 32}, {100, 131}}, 5},
      {1, 2, 32, DType::kBF16, PromptRows(25, 73), 3},
      // More heads and groups than share a pass.
      {1, 71, 16, DType::kF16, PromptRows(30, 33)},
      {1, 40, 512, DType::kF16, {{0, 35}}},
      {1, 16, 576, DType::kBF16, PromptRows(28, 36)},
      {40, 2, 16, DType::kF16, {{0, 35}}},
      // Subnormals, zeros of both signs, 1e-30 to 1e4.
      {1, 4, 48, DType::kF32, PromptRows(20, 50), 1, Values::kEdge},
      {1, 4, 48, DType::kBF16, PromptRows(20, 50), 1, Values::kEdge},
      {1, 4, 48, DType::kF16, PromptRows(20, 50), 1, Values::kEdge},
  };
  size_t next = 0;
  for (size_t i = 0, count = shapes.size(); i < count; ++i) {
    shapes.push_back(shapes[i]);
    shapes.back().dtype = DType::kI8;
  }
  for (const int64_t group : {1, 2, 4, 5, 8, 16}) {
    for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
      const DType dtype = kFloatTypes[next++ % kFloatTypes.size()];
      shapes.push_back({1, group, head_dim, dtype, PromptRows(57, 57 + 20 / group + 1)});
      shapes.push_back({1, group, head_dim, DType::kI8, PromptRows(57, 57 + 20 / group + 1)});
    }
  }
  return shapes;
}

/// Sinks for every second shape, from far below to far above the scores.
std::vector<float> SinksFor(size_t shape, int64_t heads) {
  std::vector<float> sinks;
  for (int64_t h = 0; shape % 2 == 0 && h < heads; ++h) {
    sinks.push_back(static_cast<float>(h % 7) * 20.0f - 60.0f);
  }
  return sinks;
}
/// A soft cap for every third shape, below the largest scores.
float SoftcapFor(size_t shape) { return shape % 3 == 1 ? 1.5f : 0.0f; }
const float* DataOrNull(const std::vector<float>& values) { return values.empty() ? nullptr : values.data(); }

void Case_attention(const Pair& pair) {
  size_t index = 0;
  for (const AttentionShape& shape : AttentionShapes()) {
    const std::vector<float> sinks = SinksFor(index, shape.kv_heads * shape.group);
    AttentionProblem expected(pair.reference, shape);
    const auto count = static_cast<int64_t>(shape.rows.size());
    AttentionArgs args{.cache = expected.cache.view,
                       .group = shape.group,
                       .scale = 0.125f,
                       .softcap = SoftcapFor(index++),
                       .sinks = DataOrNull(sinks),
                       .rows = expected.rows.data(),
                       .row_range = {0, count},
                       .kv_heads = {0, shape.kv_heads}};
    pair.reference.attention(args);
    for (const int parts : {1, 3}) {  // Cuts of the rows; the heads all together, or one by one.
      AttentionProblem got(pair.reference, shape);
      args.cache = got.cache.view;
      args.rows = got.rows.data();
      const int64_t heads_at_once = parts == 1 ? shape.kv_heads : 1;
      for (int part = 0; part < parts; ++part) {
        for (int64_t head = 0; head < shape.kv_heads; head += heads_at_once) {
          args.row_range = StaticRange(count, 1, part, parts);
          args.kv_heads = {head, head + heads_at_once};
          pair.tested.attention(args);
        }
      }
      EXPECT_EQ(Bits(got.out), Bits(expected.out))
          << shape.head_dim << ", group " << shape.group << ", " << DTypeName(shape.dtype) << ", " << count
          << " rows from " << shape.rows[0].end << ", parts " << parts;
    }
  }
}

// Which elements of the output are numbers, in a cache of int8 with one bad key or value, or for a bad query.
std::vector<bool> NumbersWith(const Kernels& kernels, size_t bad_query, size_t bad_key, size_t bad_value,
                              float bad) {
  constexpr int64_t kHeads = 2, kHeadDim = 96, kPositions = 40;
  CacheStorage cache = MakeCache(2, kHeads, kHeadDim, DType::kI8);
  const std::vector<BlockId> blocks = {BlockId{0}, BlockId{1}};
  for (int64_t p = 0; p < kPositions; ++p) {
    std::vector<float> key(kHeads * kHeadDim, 0.5f), value(kHeads * kHeadDim, 0.25f);
    if (p == 35 && bad_key < key.size()) key[bad_key] = bad;
    if (p == 35 && bad_value < value.size()) value[bad_value] = bad;
    EXPECT_EQ(kernels.append_kv({.cache = cache.view,
                                 .block = blocks[static_cast<size_t>(p / kBlockPositions)],
                                 .position = p,
                                 .key = key.data(),
                                 .value = value.data(),
                                 .kv_heads = {0, kHeads}}),
              0);
  }
  std::vector<float> query(kHeads * kHeadDim, 1.0f), out(query.size());
  if (bad_query < query.size()) query[bad_query] = bad;
  const AttentionRow row{query.data(), out.data(), blocks.data(), {3, kPositions}};
  kernels.attention({.cache = cache.view,
                     .group = 1,
                     .scale = 0.1f,
                     .rows = &row,
                     .row_range = {0, 1},
                     .kv_heads = {0, kHeads}});
  std::vector<bool> numbers;
  for (const float x : out) numbers.push_back(!std::isnan(x));
  return numbers;
}

TEST(Int8Cache, ANaNOrAnInfinitySpoilsItsHeadOrItsGroupOfValues) {
  constexpr size_t kNone = 1000;
  for (const Isa isa : SupportedIsas()) {
    const Kernels& kernels = SelectKernels(isa);
    std::vector<bool> all(192, true), first_head = all, last_group = all;
    std::fill_n(first_head.begin(), 96, false);
    std::fill_n(last_group.begin() + 160, 32, false);
    EXPECT_EQ(NumbersWith(kernels, kNone, kNone, kNone, 0), all);
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      EXPECT_EQ(NumbersWith(kernels, 70, kNone, kNone, bad), first_head) << IsaName(isa);
      EXPECT_EQ(NumbersWith(kernels, kNone, 70, kNone, bad), first_head) << IsaName(isa);
      EXPECT_EQ(NumbersWith(kernels, kNone, kNone, 191, bad), last_group) << IsaName(isa);
    }
  }
}

// All codes and weights at their largest: of 127, scales are 1, queries and keys have codes 127, and of equal scores all
// weights are 16256.
std::vector<float> ExtremeAttention(const Kernels& kernels, int64_t group) {
  constexpr int64_t kHeadDim = 80, kPositions = 64;
  CacheStorage cache = MakeCache(2, 1, kHeadDim, DType::kI8);
  const std::vector<BlockId> blocks = {BlockId{1}, BlockId{0}};
  const std::vector<float> key(kHeadDim, 127.0f);
  std::vector<float> value;
  for (int64_t d = 0; d < kHeadDim; ++d) value.push_back(d % 2 == 0 ? 127.0f : -127.0f);
  for (int64_t p = 0; p < kPositions; ++p) {
    kernels.append_kv({.cache = cache.view,
                       .block = blocks[static_cast<size_t>(p / kBlockPositions)],
                       .position = p,
                       .key = key.data(),
                       .value = value.data(),
                       .kv_heads = {0, 1}});
  }
  const std::vector<float> query(static_cast<size_t>(group * kHeadDim), 127.0f);
  std::vector<float> out(query.size());
  const AttentionRow row{query.data(), out.data(), blocks.data(), {0, kPositions}};
  kernels.attention({.cache = cache.view,
                     .group = group,
                     .scale = 1.0f,
                     .rows = &row,
                     .row_range = {0, 1},
                     .kv_heads = {0, 1}});
  return out;
}

TEST(Int8Cache, ExtremeCodesDoNotOverflow) {
  for (const int64_t group : {1, 2, 3, 4, 8, 9}) {
    const std::vector<float> expected = ExtremeAttention(SelectKernels(Isa::kReference), group);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(expected[i], i % 2 == 0 ? 127.0f : -127.0f, 1e-4f);
    }
    for (const Isa isa : SupportedIsas()) {
      EXPECT_EQ(Bits(ExtremeAttention(SelectKernels(isa), group)), Bits(expected)) << IsaName(isa);
    }
  }
}

// Splits computed separately, then merged, give the bits of `attention`.
void CheckSplits(const Kernels& reference, const Kernels& partial, const Kernels& merge) {
  size_t index = 0;
  for (const AttentionShape& shape : AttentionShapes()) {
    AttentionProblem problem(reference, shape);
    const int64_t heads = shape.kv_heads * shape.group;
    const float softcap = SoftcapFor(index);
    const std::vector<float> sinks = SinksFor(index++, heads);
    const AttentionRow& row = problem.rows.back();
    reference.attention({.cache = problem.cache.view,
                         .group = shape.group,
                         .scale = 0.125f,
                         .softcap = softcap,
                         .sinks = DataOrNull(sinks),
                         .rows = &row,
                         .row_range = {0, 1},
                         .kv_heads = {0, shape.kv_heads}});
    const Range splits = AttentionSplits(row.positions);
    std::vector<float> partials(
        static_cast<size_t>(splits.size() * heads * AttentionPartialFloats(shape.head_dim)));
    const auto attend = [&](Range part, Range kv_heads) {
      partial.attention_partial({.cache = problem.cache.view,
                                 .group = shape.group,
                                 .scale = 0.125f,
                                 .softcap = softcap,
                                 .row = row,
                                 .splits = part,
                                 .kv_heads = kv_heads,
                                 .partials = partials.data()});
    };
    // The order must not matter: the last split first, head by head, then those before it.
    for (int64_t h = 0; h < shape.kv_heads; ++h) attend({splits.end - 1, splits.end}, {h, h + 1});
    attend({splits.begin, splits.end - 1}, {0, shape.kv_heads});
    std::vector<float> got(static_cast<size_t>(problem.row_floats));
    merge.attention_merge({.partials = partials.data(),
                           .splits = splits.size(),
                           .heads = heads,
                           .head_dim = shape.head_dim,
                           .sinks = DataOrNull(sinks),
                           .out = got.data(),
                           .head_range = {0, heads}});
    const std::vector<float> expected(row.out, row.out + problem.row_floats);
    EXPECT_EQ(Bits(got), Bits(expected)) << shape.head_dim << ", group " << shape.group;
  }
}

void Case_attention_partial(const Pair& pair) { CheckSplits(pair.reference, pair.tested, pair.reference); }
void Case_attention_merge(const Pair& pair) { CheckSplits(pair.reference, pair.reference, pair.tested); }

TEST(Attention, MergedSplitsOfTheReferenceGiveTheBitsOfItsAttention) {
  const Kernels& reference = SelectKernels(Isa::kReference);
  CheckSplits(reference, reference, reference);
}

/// The scores of `heads` heads at `positions`, and 7 elsewhere.
std::vector<float> IndexScoresOf(const Kernels& kernels, AttentionProblem& problem, int64_t heads,
                                 const std::vector<float>& weights, Range positions) {
  const Range all = problem.rows[0].positions;
  const int64_t rows = weights.empty() ? heads : 1;
  std::vector<float> scores(static_cast<size_t>(rows * (all.end + 3)), 7.0f);
  kernels.index_scores({.keys = problem.cache.view,
                        .blocks = problem.rows[0].blocks,
                        .query = problem.query.data(),
                        .heads = heads,
                        .weights = DataOrNull(weights),
                        .positions = positions,
                        .scores = View(scores, all.end + 3)});
  return scores;
}

void Case_index_scores(const Pair& pair) {
  RandomStream random(15);
  for (const DType dtype : kFloatTypes) {
    for (const auto& [heads, dim, end] : {std::tuple(1, 16, 1), std::tuple(5, 36, 33), std::tuple(8, 32, 300),
                                          std::tuple(64, 128, 100), std::tuple(13, 7, 64)}) {
      AttentionProblem problem(pair.reference, {1, heads, dim, dtype, {{0, end}}});
      for (const std::vector<float>& weights :
           {RandomFloats(random, heads), std::vector<float>(), std::vector<float>(heads, -0.0f)}) {
        for (const Range positions : {Range{0, end}, Range{end / 64 * 32, end}}) {
          EXPECT_EQ(Bits(IndexScoresOf(pair.tested, problem, heads, weights, positions)),
                    Bits(IndexScoresOf(pair.reference, problem, heads, weights, positions)))
              << heads << " heads of " << dim << ", " << end << " positions, " << DTypeName(dtype);
        }
      }
    }
  }
}

TEST(IndexScores, AreTheWeightedSumOfPositiveProducts) {
  const Kernels& reference = SelectKernels(Isa::kReference);
  AttentionProblem problem(reference, {1, 2, 3, DType::kF32, {{0, 40}}});
  const auto* keys = reinterpret_cast<const float*>(problem.cache.view.keys) +
                     problem.blocks[0][1].value * problem.cache.view.block_stride / 4;
  const auto dot = [&](int64_t head) {  // With position 35.
    double sum = 0;
    for (int64_t d = 0; d < 3; ++d) {
      sum += double{problem.query[static_cast<size_t>(head * 3 + d)]} * keys[d * kBlockPositions + 3];
    }
    return sum;
  };
  const std::vector<float> apart = IndexScoresOf(reference, problem, 2, {}, {32, 40});
  EXPECT_NEAR(apart[35], dot(0), 1e-5);
  EXPECT_NEAR(apart[43 + 35], dot(1), 1e-5);
  EXPECT_EQ(apart[31], 7.0f);
  EXPECT_EQ(apart[40], 7.0f);
  const std::vector<float> together = IndexScoresOf(reference, problem, 2, {0.5f, -2.0f}, {0, 40});
  EXPECT_NEAR(together[35], 0.5 * std::max(dot(0), 0.0) - 2 * std::max(dot(1), 0.0), 1e-5);
}

// ---- Experts ----

struct RouteWay {
  RouteScores scores = RouteScores::kSoftmax;
  RouteWeights weighting = RouteWeights::kAsIs;
  bool biased = false;
  RouteGroups groups;
  float near_distance = 0;
  float routed_scaling_factor = 1;
};

std::vector<RouteWay> RouteWays(int64_t experts) {
  std::vector<RouteWay> ways = {
      {},
      {.weighting = RouteWeights::kRenormalized},
      {.scores = RouteScores::kLogits, .weighting = RouteWeights::kSoftmax},
      {.scores = RouteScores::kLogits, .weighting = RouteWeights::kSoftmaxOfNear, .near_distance = 0.7f},
      {.scores = RouteScores::kLogits, .weighting = RouteWeights::kSigmoid},
      {.scores = RouteScores::kSigmoid,
       .weighting = RouteWeights::kRenormalized,
       .biased = true,
       .routed_scaling_factor = 2.5f},
  };
  if (experts % 8 != 0) return ways;
  ways.push_back({.groups = {.count = 4, .topk_group = 2}, .routed_scaling_factor = 16.0f});
  ways.push_back({.scores = RouteScores::kSigmoid,
                  .weighting = RouteWeights::kRenormalized,
                  .biased = true,
                  .groups = {.count = 8, .topk_group = 4, .by_top_two = true}});
  return ways;
}

void CheckRoute(const Pair& pair, int64_t experts, const RouteWay& way, RandomStream& random) {
  const int64_t allowed = experts / way.groups.count * way.groups.topk_group;
  const int64_t k = std::min<int64_t>(8, allowed);
  std::vector<float> logits = RandomFloats(random, 5 * experts);
  std::vector<float> selection_bias = RandomFloats(random, experts);
  for (int64_t e = 0; e < experts; ++e) {
    logits[static_cast<size_t>(experts + e)] = 0.25f;  // All tie.
    // Ties at three levels.
    logits[static_cast<size_t>(2 * experts + e)] = static_cast<float>(e % 3) - 200.0f;
    logits[static_cast<size_t>(3 * experts + e)] = e == experts - 1 ? 3e38f : -3e38f;  // One takes all.
  }
  std::vector<int32_t> expected_ids(static_cast<size_t>(5 * k)), ids(expected_ids.size());
  std::vector<float> expected(expected_ids.size()), weights(expected_ids.size());
  RouteArgs args{.logits = ConstView(logits, experts),
                 .k = k,
                 .scores = way.scores,
                 .selection_bias = way.biased ? selection_bias.data() : nullptr,
                 .groups = way.groups,
                 .weighting = way.weighting,
                 .near_distance = way.near_distance,
                 .routed_scaling_factor = way.routed_scaling_factor,
                 .ids = View(expected_ids, k),
                 .weights = View(expected, k),
                 .rows = {0, 5}};
  ASSERT_TRUE(pair.reference.route(args));
  args.ids = View(ids, k);
  args.weights = View(weights, k);
  ASSERT_TRUE(pair.tested.route(args));
  EXPECT_EQ(ids, expected_ids) << experts;
  EXPECT_EQ(Bits(weights), Bits(expected)) << experts;
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    logits.back() = bad;
    EXPECT_FALSE(pair.reference.route(args));
    EXPECT_FALSE(pair.tested.route(args));
  }
}

void Case_route(const Pair& pair) {
  RandomStream random(10);
  for (const int64_t experts : {1, 2, 13, 16, 17, 64, 128, 160, 1024}) {
    for (const RouteWay& way : RouteWays(experts)) CheckRoute(pair, experts, way, random);
  }
}

void Case_accumulate_fixed(const Pair& pair) {
  RandomStream random(11);
  const int64_t cols = 77;
  std::vector<float> y = RandomFloats(random, 4 * cols, Values::kEdge);
  const float extremes[] = {0x1p-41f, 0x1.8p-40f,     -0x1.8p-40f, 0x1p11f,
                            -0x1p11f, 0x1.fffffep10f, 262143.98f,  -262143.98f};
  std::copy(std::begin(extremes), std::end(extremes), y.begin());
  std::copy(std::begin(extremes), std::end(extremes), y.begin() + 60);
  const std::vector<float> weights = {1.0f, 0.3f, 1e-9f, 0.7f};
  const std::vector<int32_t> targets = {0, 1, 1, 0};
  std::vector<int64_t> expected(2 * cols, 5), got(2 * cols, 5);
  AccumulateFixedArgs args{.y = ConstView(y, cols),
                           .weights = weights.data(),
                           .targets = targets.data(),
                           .acc = View(expected, cols),
                           .cols = {0, cols}};
  ASSERT_TRUE(pair.reference.accumulate_fixed(args));
  args.acc = View(got, cols);
  for (int part = 0; part < 3; ++part) {
    args.cols = StaticRange(cols, 16, part, 3);
    ASSERT_TRUE(pair.tested.accumulate_fixed(args));
  }
  EXPECT_EQ(got, expected);
  args.cols = {0, cols};
  for (const float bad : {262144.0f, -262144.0f, kNan, kInfinity, -kInfinity}) {
    for (const size_t at : {size_t{3}, size_t{15}, static_cast<size_t>(cols - 1)}) {
      std::vector<float> with_bad = y;
      with_bad[at] = bad;
      args.y = ConstView(with_bad, cols);
      EXPECT_FALSE(pair.reference.accumulate_fixed(args));
      EXPECT_FALSE(pair.tested.accumulate_fixed(args));
    }
  }
}

void Case_fixed_to_float(const Pair& pair) {
  RandomStream random(12);
  const int64_t cols = 83;
  std::vector<int64_t> acc(2 * cols);
  for (size_t i = 0; i < acc.size(); ++i) acc[i] = static_cast<int64_t>(random.bits()) >> (i % 64);
  // A tie between two floats, and just above it, where a conversion through double would lose the 1.
  acc[0] = (int64_t{1} << 53) + (int64_t{1} << 29);
  acc[1] = (int64_t{1} << 53) + (int64_t{1} << 29) + 1;
  for (const FixedStore store : {FixedStore::kAssign, FixedStore::kAdd}) {
    std::vector<float> expected = RandomFloats(random, 2 * cols), got = expected;
    FixedToFloatArgs args{
        .acc = ConstView(acc, cols), .y = View(expected, cols), .store = store, .rows = {0, 2}};
    pair.reference.fixed_to_float(args);
    args.y = View(got, cols);
    pair.tested.fixed_to_float(args);
    EXPECT_EQ(Bits(got), Bits(expected));
  }
}

void Case_argmax(const Pair& pair) {
  RandomStream random(13);
  for (const int64_t size : {1, 2, 15, 16, 17, 33, 1000, 151936}) {
    std::vector<float> values = RandomFloats(random, size);
    EXPECT_EQ(pair.tested.argmax({values.data(), size}), pair.reference.argmax({values.data(), size}));
    for (int round = 0; round < 20; ++round) {  // Ties: the lowest index wins.
      const auto a = static_cast<int64_t>(random.below(static_cast<uint64_t>(size)));
      const auto b = static_cast<int64_t>(random.below(static_cast<uint64_t>(size)));
      std::vector<float> tied = values;
      tied[static_cast<size_t>(a)] = tied[static_cast<size_t>(b)] = 50.0f;
      EXPECT_EQ(pair.tested.argmax({tied.data(), size}), std::min(a, b));
      EXPECT_EQ(pair.reference.argmax({tied.data(), size}), std::min(a, b));
    }
    std::vector<float> zeros(static_cast<size_t>(size), 0.0f);
    zeros[0] = -0.0f;
    EXPECT_EQ(pair.tested.argmax({zeros.data(), size}), 0);
    std::fill(zeros.begin(), zeros.end(), -kInfinity);
    EXPECT_EQ(pair.tested.argmax({zeros.data(), size}), 0);
    values.back() = kNan;
    EXPECT_EQ(pair.tested.argmax({values.data(), size}), -1);
    EXPECT_EQ(pair.reference.argmax({values.data(), size}), -1);
  }
  EXPECT_EQ(pair.tested.argmax({nullptr, 0}), -1);
}

// ---- One test per kernel of the list and instruction set ----

class BitEquality : public testing::TestWithParam<Isa> {
 protected:
  Pair pair() const { return {SelectKernels(Isa::kReference), SelectKernels(GetParam())}; }
};
#define SHOAL_KERNEL(result, name, Args) \
  TEST_P(BitEquality, name) { Case_##name(pair()); }
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL

INSTANTIATE_TEST_SUITE_P(, BitEquality, testing::ValuesIn(SupportedIsas()), [](const auto& isa) {
  std::string name(IsaName(isa.param));
  std::replace(name.begin(), name.end(), '-', '_');  // gtest allows no dashes in names.
  return name;
});

// ---- AMX on CPUs without it ----

#if defined(__x86_64__)
TEST(AmxEmulated, MatmulOnTilesHasTheBitsOfTheReference) {
  if (!ChooseIsa("avx512").ok())
    GTEST_SKIP() << "this machine lacks AVX-512, which the rest of the kernel is written in";
  Kernels emulated = SelectKernels(Isa::kAvx512);
  emulated.matmul_affine = MatmulOnEmulatedTiles;
  Case_matmul_affine({SelectKernels(Isa::kReference), emulated});
  CheckExtremes(emulated, 1);
  CheckExtremes(emulated, 20);
}
#endif

// ---- AMX on CPUs with it ----

#if defined(__x86_64__)
/// Whether a switch to another thread would have to save tiles of this thread, by XGETBV's components in use.
bool TilesAreInUse() {
  uint32_t in_use, high;
  asm volatile("xgetbv" : "=a"(in_use), "=d"(high) : "c"(1));
  return (in_use & (1u << 17 | 1u << 18)) != 0;
}

TEST(Amx, AProductLeavesNoTilesForAThreadSwitchToSave) {
  if (!ChooseIsa("amx").ok()) GTEST_SKIP() << "this machine lacks AMX";
  CheckExtremes(SelectKernels(Isa::kAmx), 20);
  EXPECT_FALSE(TilesAreInUse());
}
#endif

}  // namespace
}  // namespace shoal
