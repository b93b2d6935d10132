// Compares reference.cpp with independent formulas in double precision. Tolerances follow from the roundings:
// with u = 2^-24, a chain of n FMAs errs by at most n * u * sum |terms| (Higham 2002, section 3.1); the
// factor 1.01 covers the higher powers of n * u.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "kernels/kernels.h"
#include "kernels/test_data.h"

namespace shoal {
namespace {

constexpr double kU = 0x1p-24;

const Kernels& Reference() { return SelectKernels(Isa::kReference); }

double ChainBound(int64_t n, double magnitude) { return 1.01 * static_cast<double>(n) * kU * magnitude; }

TEST(Accuracy, QuantizationErrsByAtMostHalfAStep) {
  RandomStream random(1);
  const std::vector<float> x = RandomFloats(random, 640);
  const QuantizedStorage q = Quantize(Reference(), x, 640, 64);
  for (size_t i = 0; i < x.size(); ++i) {
    const double step = q.scales[i / 64];
    // Half a step, and one rounding each of the reciprocal, the product with it and the scale, on values up
    // to 127 steps.
    EXPECT_NEAR(step * q.codes[i], x[i], step * (0.5 + 127 * 3 * 1.01 * kU)) << i;
  }
  for (size_t g = 0; g < q.scales.size(); ++g) {
    int sum = 0;
    int largest = 0;
    for (size_t i = 64 * g; i < 64 * g + 64; ++i) {
      sum += q.codes[i];
      largest = std::max(largest, std::abs(static_cast<int>(q.codes[i])));
    }
    EXPECT_EQ(largest, 127);
    EXPECT_EQ(q.sums[g], q.scales[g] * static_cast<float>(sum));
  }
}

TEST(Accuracy, AffineProductIsTheProductOfTheDequantizedValues) {
  RandomStream random(2);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const int64_t cols = 512;
    const AffineSource source = RandomAffine(random, 20, cols, bits, 64, DType::kF32);
    const PackedMatrix w = *PackedMatrix::PackAffine(source.view);
    const QuantizedStorage q = Quantize(Reference(), RandomFloats(random, 3 * cols), cols, 64);
    std::vector<float> y(60);
    Reference().matmul_affine({.x = q.rows, .w = w.view(), .y = View(y, 20), .tiles = w.view().all_tiles()});
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t n = 0; n < 20; ++n) {
        double exact = 0;
        double magnitude = 0;
        for (int64_t g = 0; g < cols / 64; ++g) {
          double dot = 0;
          double code_sum = 0;
          for (int64_t k = 64 * g; k < 64 * g + 64; ++k) {
            dot += AffineCode(source.view, n, k) * q.codes[static_cast<size_t>(t * cols + k)];
            code_sum += q.codes[static_cast<size_t>(t * cols + k)];
          }
          const double scale = q.scales[static_cast<size_t>(t * cols / 64 + g)];
          const double product = dot * AffineScale(source.view, n, g) * scale;
          const double shift = code_sum * AffineBias(source.view, n, g) * scale;
          exact += product + shift;
          magnitude += std::fabs(product) + std::fabs(shift);
        }
        // Two FMAs per group, and one rounding inside each term.
        EXPECT_NEAR(y[static_cast<size_t>(t * 20 + n)], exact, ChainBound(2 * cols / 64 + 1, magnitude))
            << bits << " bits";
      }
    }
  }
}

TEST(Accuracy, FloatProductStaysWithinTheChainBound) {
  RandomStream random(3);
  const int64_t cols = 1000;
  const int64_t roundings = 256 + 4;  // Of a term: those of its block, and one for each of the four blocks.
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::vector<uint8_t> bytes = FloatsAs(RandomFloats(random, 18 * cols), dtype);
    const PackedMatrix w = *PackedMatrix::PackFloat(bytes.data(), dtype, 18, cols, cols);
    const std::vector<float> x = RandomFloats(random, cols);
    std::vector<float> y(18);
    Reference().matmul_float(
        {.x = ConstView(x, cols), .w = w.view(), .y = View(y, 18), .tiles = w.view().all_tiles()});
    for (int64_t n = 0; n < 18; ++n) {
      double exact = 0;
      double magnitude = 0;
      for (int64_t k = 0; k < cols; ++k) {
        const double term = static_cast<double>(LoadFloatWeight(bytes.data(), dtype, n * cols + k)) *
                            x[static_cast<size_t>(k)];
        exact += term;
        magnitude += std::fabs(term);
      }
      EXPECT_NEAR(y[static_cast<size_t>(n)], exact, ChainBound(roundings, magnitude));
    }
  }
}

TEST(Accuracy, FloatActivationsTimesAffineWeightsFollowTheDefinitionOfTheGoldens) {
  RandomStream random(4);
  const int64_t cols = 608;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    const AffineSource source = RandomAffine(random, 16, cols, bits, 32, DType::kBF16);
    const PackedMatrix w = *PackedMatrix::PackAffine(source.view);
    const std::vector<float> x = RandomFloats(random, cols);
    std::vector<float> y(16);
    Reference().matmul_float({.x = ConstView(x, cols), .w = w.view(), .y = View(y, 16), .tiles = {0, 1}});
    for (int64_t n = 0; n < 16; ++n) {
      float blocks[3] = {};
      for (int64_t k = 0; k < cols; ++k) {
        float& chain = blocks[k / 256];
        chain = std::fma(AffineValue(source.view, n, k), x[static_cast<size_t>(k)], chain);
      }
      EXPECT_EQ(y[static_cast<size_t>(n)], blocks[0] + blocks[1] + blocks[2]);
    }
  }
}

TEST(Accuracy, RmsNormErrsByItsRoundingsOnly) {
  RandomStream random(5);
  const int64_t cols = 2048;
  const std::vector<float> x = RandomFloats(random, cols);
  const std::vector<float> weight = RandomFloats(random, cols);
  std::vector<float> y(static_cast<size_t>(cols));
  Reference().rms_norm(
      {.x = ConstView(x, cols), .weight = weight.data(), .eps = 1e-5f, .y = View(y, cols), .rows = {0, 1}});
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * v;
  const double factor = 1 / std::sqrt(squares / cols + static_cast<double>(1e-5f));
  // The sum has 128 FMAs and 4 additions of positive terms; mean, sqrt and reciprocal round once each. The
  // square root halves the relative error of the sum.
  const double relative = 1.01 * kU * ((128 + 4 + 2) / 2.0 + 2 + 2);
  for (size_t c = 0; c < y.size(); ++c) {
    const double exact = x[c] * factor * weight[c];
    EXPECT_NEAR(y[c], exact, std::fabs(exact) * relative);
  }
}

TEST(Accuracy, ExponentialIsWithinTwoUlp) {
  // Seen through a softmax over the logits (0, d): the second probability is e / (1 + e) with e = exp(d).
  double worst = 0;
  for (double d = -86.9; d <= 0; d += 0.0013) {
    const std::vector<float> logits = {0.0f, static_cast<float>(d)};
    int32_t ids[2];
    float weights[2];
    ASSERT_TRUE(Reference().route({.logits = ConstView(logits, 2),
                                   .k = 2,
                                   .weighting = RouteWeights::kAsIs,
                                   .ids = MatView<int32_t>(ids, 1, 2),
                                   .weights = MatView<float>(weights, 1, 2),
                                   .rows = {0, 1}}));
    const double e = std::exp(static_cast<double>(logits[1]));
    // The sum (half an ulp of a value in [1, 2]) and the quotient add at most one ulp each to the two of exp.
    const double error = std::fabs(weights[1] - e / (1 + e)) / (e / (1 + e));
    worst = std::max(worst, error / (2 * kU));
    ASSERT_LE(error, 2 * kU * 4) << d;
  }
  EXPECT_GT(worst, 0.1);  // An error of 0 would mean that nothing was measured.
}

TEST(Accuracy, SiluErrsByItsRoundingsOnly) {
  std::vector<float> gate;
  for (float x = -80; x < 80; x += 0.013f) gate.push_back(x);
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  Reference().silu_mul(
      {.gate = ConstView(gate, cols), .up = ConstView(up, cols), .out = View(out, cols), .rows = {0, 1}});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i])));
    // exp errs by 2 ulp = 4 u, sum and quotient by one u each.
    EXPECT_NEAR(out[i], exact, std::fabs(exact) * 1.01 * 6 * kU) << gate[i];
  }
}

TEST(Accuracy, GeluErrsByItsRoundingsOnly) {
  std::vector<float> gate;
  for (float x = -6; x < 20; x += 0.0031f) gate.push_back(x);
  const auto cols = static_cast<int64_t>(gate.size());
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  Reference().gelu_mul(
      {.gate = ConstView(gate, cols), .up = ConstView(up, cols), .out = View(out, cols), .rows = {0, 1}});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    const double inner = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
    const double exact = 0.5 * x * (1 + std::tanh(inner));
    // The argument has five roundings: two constants, a square, an FMA and a product. The exponential turns
    // them into relative errors of as many u, times the size of the argument. The rest is as for silu.
    EXPECT_NEAR(out[i], exact, std::fabs(exact) * 1.01 * (6 + 5 * std::fabs(2 * inner)) * kU + 1e-37) << x;
  }
}

TEST(Accuracy, ClampedSwigluErrsByItsRoundingsOnly) {
  const std::vector<float> gate = {-20, -3, -1, 0, 0.5, 3, 6.9f, 7, 7.1f, 100};
  const std::vector<float> up = {1, -9, 9, 5, -7, 7.5f, -0.25f, 2, -100, 100};
  const auto cols = static_cast<int64_t>(gate.size());
  std::vector<float> out(gate.size());
  Reference().clamped_swiglu({.gate = ConstView(gate, cols),
                              .up = ConstView(up, cols),
                              .limit = 7,
                              .out = View(out, cols),
                              .rows = {0, 1}});
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = std::min(static_cast<double>(gate[i]), 7.0);
    const double u = std::clamp(static_cast<double>(up[i]), -7.0, 7.0);
    const double exact = g / (1 + std::exp(-1.702 * g)) * (u + 1);
    // The constant and the product in the argument err by one u each, times its size; exp by 4 u; sum,
    // quotient, u + 1 and product by one u each.
    EXPECT_NEAR(out[i], exact, std::fabs(exact) * 1.01 * (8 + 2 * std::fabs(1.702 * g)) * kU) << gate[i];
  }
}

TEST(Accuracy, XieluErrsByItsRoundingsOnlyAlsoNearZero) {
  const XieluShape shape{.positive = 0.75f, .negative = 1.25f, .slope = 0.5f, .top = -0x1p-20f};
  std::vector<float> x = {-0x1p-22f, -0x1p-20f, -1e-5f, -1e-3f, 0.0f, 1e-3f};
  for (float v = -20; v < 20; v += 0.0031f) x.push_back(v);
  const auto cols = static_cast<int64_t>(x.size());
  std::vector<float> out(x.size());
  Reference().activate({.x = ConstView(x, cols),
                        .activation = Activation::kXielu,
                        .xielu = shape,
                        .out = View(out, cols),
                        .rows = {0, 1}});
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = x[i];
    const double line = shape.slope * v;
    const double low = std::expm1(std::min<double>(v, shape.top));
    const double exact = v > 0 ? shape.positive * v * v + line : (low - v) * shape.negative + line;
    // Each term errs by a few of its own roundings: the exponential by 4 u, difference, products and sum by one each.
    const double terms = v > 0 ? shape.positive * v * v + line
                               : (std::fabs(low) * 6 + std::fabs(v)) * shape.negative + std::fabs(line);
    EXPECT_NEAR(out[i], exact, 1.01 * 4 * terms * kU) << v;
  }
}

TEST(Accuracy, LayerNormErrsByItsRoundingsOnlyFarFromZero) {
  constexpr int64_t kWide = 200;
  std::vector<float> x(kWide), y(kWide), weight(kWide, 1.0f), bias(kWide, 0.25f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 50 + std::sin(static_cast<float>(i));
  Reference().layer_norm({.x = ConstView(x, kWide),
                          .weight = weight.data(),
                          .bias = bias.data(),
                          .eps = 1e-5f,
                          .y = View(y, kWide),
                          .rows = {0, 1}});
  double mean = 0, variance = 0;
  for (const float v : x) mean += v / static_cast<double>(kWide);
  for (const float v : x) variance += (v - mean) * (v - mean) / static_cast<double>(kWide);
  // A lane adds up 13 values, then there are 4 steps of folding and a quotient: 18 roundings of a mean of 50.
  const double scale = 1 / std::sqrt(variance + 1e-5);
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = (x[i] - mean) * scale;
    EXPECT_NEAR(y[i], exact + 0.25, 1.01 * (18 * mean * scale + 24 * std::fabs(exact) + 1) * kU) << i;
  }
}

TEST(Accuracy, RopeRotatesEachPairByItsAngle) {
  RandomStream random(6);
  const int64_t head_dim = 64, half = 24;
  for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
    std::vector<float> cosine, sine;
    for (int64_t i = 0; i < half; ++i) {
      const double angle = random.uniform() * 6;
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
    const std::vector<float> x = RandomFloats(random, 2 * head_dim);
    std::vector<float> y = x;
    Reference().rope({.x = View(y, 2 * head_dim),
                      .heads = 2,
                      .head_dim = head_dim,
                      .rotary = 2 * half,
                      .cosine = ConstView(cosine, half),
                      .sine = ConstView(sine, half),
                      .pairing = pairing,
                      .rows = {0, 1}});
    for (int64_t head = 0; head < 2; ++head) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t base = head * head_dim;
        const auto a = static_cast<size_t>(base + (pairing == RopePairing::kHalfSplit ? i : 2 * i));
        const auto b =
            static_cast<size_t>(base + (pairing == RopePairing::kHalfSplit ? i + half : 2 * i + 1));
        const double c = cosine[static_cast<size_t>(i)], s = sine[static_cast<size_t>(i)];
        const double bound = 1.01 * 2 * kU * (std::fabs(x[a]) + std::fabs(x[b]));
        EXPECT_NEAR(y[a], x[a] * c - x[b] * s, bound);
        EXPECT_NEAR(y[b], x[b] * c + x[a] * s, bound);
      }
      for (int64_t i = 2 * half; i < head_dim; ++i) {
        EXPECT_EQ(y[static_cast<size_t>(head * head_dim + i)], x[static_cast<size_t>(head * head_dim + i)]);
      }
    }
  }
}

/// Replaces rows of heads by what a cache of int8 makes of them. Each element errs by half a step, of a scale that is at
/// most 2^-7 larger than absmax / 127.
void RoundAsInt8Cache(int64_t head_dim, std::vector<float>& x) {
  for (size_t head = 0; head < x.size(); head += static_cast<size_t>(head_dim)) {
    for (size_t begin = 0; begin < static_cast<size_t>(head_dim); begin += 64) {
      const size_t n = std::min<size_t>(64, static_cast<size_t>(head_dim) - begin);
      float* const group = x.data() + head + begin;
      float absmax = 0;
      for (size_t i = 0; i < n; ++i) absmax = std::max(absmax, std::fabs(group[i]));
      int exponent;
      const float mantissa = std::frexp(absmax / 127, &exponent);  // In [1/2, 1): 8 bits are 2^-8 apart.
      const float scale = std::ldexp(std::ceil(mantissa * 256) / 256, exponent);
      for (size_t i = 0; i < n; ++i) {
        const float rounded = std::nearbyint(group[i] * (1 / scale)) * scale;  // Exact: 7 bits by 8.
        EXPECT_NEAR(rounded, group[i], absmax / 127 * (1 + 0x1p-7f) * 0.5001f);
        group[i] = rounded;
      }
    }
  }
}

void ExpectSoftmaxOverVisiblePositions(DType dtype, int64_t head_dim) {
  RandomStream random(7);
  const int64_t kv_heads = 2, group = 3, end = 1300;
  CacheStorage cache = MakeCache(end / 32 + 1, kv_heads, head_dim, dtype);
  std::vector<BlockId> blocks;
  for (int64_t b = 0; b <= end / 32; ++b) blocks.push_back(BlockId{static_cast<int32_t>(end / 32 - b)});
  std::vector<float> keys = RandomFloats(random, end * kv_heads * head_dim);
  std::vector<float> values = RandomFloats(random, end * kv_heads * head_dim);
  for (int64_t p = 0; p < end; ++p) {
    Reference().append_kv({.cache = cache.view,
                           .block = blocks[static_cast<size_t>(p / 32)],
                           .position = p,
                           .key = keys.data() + p * kv_heads * head_dim,
                           .value = values.data() + p * kv_heads * head_dim,
                           .kv_heads = {0, kv_heads}});
  }
  std::vector<float> query = RandomFloats(random, kv_heads * group * head_dim);
  std::vector<float> asked = query;
  if (dtype == DType::kI8) {  // The formula below is then that of the rounded elements.
    RoundAsInt8Cache(head_dim, keys);
    RoundAsInt8Cache(head_dim, values);
    for (int64_t head = 0; head < kv_heads * group; ++head) {
      for (int64_t d = 0; d < head_dim; d += 64) {
        std::vector<float> part(64, 0.0f);
        float* const at = query.data() + head * head_dim + d;
        const int64_t n = std::min<int64_t>(64, head_dim - d);
        std::copy_n(at, n, part.begin());
        const QuantizedStorage q = Quantize(Reference(), part, 64, 64);
        for (int64_t i = 0; i < n; ++i)
          at[i] = q.scales[0] * static_cast<float>(q.codes[static_cast<size_t>(i)]);
      }
    }
  }
  double largest_value = 0;
  for (const float v : values) largest_value = std::max<double>(largest_value, std::fabs(v));
  const double scale = 0.125;
  for (const Range visible : {Range{0, end}, Range{700, 1250}, Range{40, 41}}) {
    std::vector<float> out(query.size());
    const AttentionRow row{asked.data(), out.data(), blocks.data(), visible};
    Reference().attention({.cache = cache.view,
                           .group = group,
                           .scale = 0.125f,
                           .rows = &row,
                           .row_range = {0, 1},
                           .kv_heads = {0, kv_heads}});
    for (int64_t h = 0; h < kv_heads * group; ++h) {
      std::vector<double> scores;
      double score_error = 0;
      for (int64_t p = visible.begin; p < visible.end; ++p) {
        double score = 0, magnitude = 0;
        for (int64_t d = 0; d < head_dim; ++d) {
          const double term = static_cast<double>(query[static_cast<size_t>(h * head_dim + d)]) *
                              keys[static_cast<size_t>((p * kv_heads + h / group) * head_dim + d)];
          score += term;
          magnitude += std::fabs(term);
        }
        scores.push_back(score * scale);
        score_error = std::max(score_error, ChainBound(head_dim + 1, magnitude * scale));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - largest);
      // In a cache of int8, the weight of a position, p times the scale of its value, errs by half a step, 1 / 16256 of the
      // largest of its block; a code is at most 127, and 127 scales are at most (1 + 2^-7) times the largest value.
      double weight_error = 0;
      for (int64_t p = visible.begin; dtype == DType::kI8 && p < visible.end;) {
        double most = 0;
        const int64_t next = std::min(visible.end, (p / 32 + 1) * 32);
        const int64_t count = next - p;
        for (; p < next; ++p) most = std::max(most, scores[static_cast<size_t>(p - visible.begin)] / sum);
        weight_error += static_cast<double>(count) * most * 0.5 / 16256 * (1 + 0x1p-7) * largest_value;
      }
      for (int64_t d = 0; d < head_dim; ++d) {
        double exact = 0, magnitude = 0;
        for (int64_t p = visible.begin; p < visible.end; ++p) {
          const double term = scores[static_cast<size_t>(p - visible.begin)] / sum *
                              values[static_cast<size_t>((p * kv_heads + h / group) * head_dim + d)];
          exact += term;
          magnitude += std::fabs(term);
        }
        // A probability errs by the error of its score and a few roundings: exp 4 u, its argument, and at
        // most one correction of the online maximum per block. So does the sum it is divided by. The weighted
        // sum is a chain.
        const int64_t blocks_seen = visible.size() / 32 + 2;
        const double relative = 2 * (score_error + 1.01 * kU * static_cast<double>(8 + 5 * blocks_seen));
        EXPECT_NEAR(out[static_cast<size_t>(h * head_dim + d)], exact,
                    magnitude * relative + ChainBound(visible.size() + 2 * blocks_seen, magnitude) +
                        1.01 * weight_error);
      }
    }
  }
}

TEST(Accuracy, AttentionIsSoftmaxOverTheVisiblePositions) {
  ExpectSoftmaxOverVisiblePositions(DType::kF32, 64);
}
TEST(Accuracy, AttentionOverInt8IsSoftmaxOverTheRoundedElements) {
  ExpectSoftmaxOverVisiblePositions(DType::kI8, 64);
  ExpectSoftmaxOverVisiblePositions(DType::kI8, 112);
}

TEST(Accuracy, RoutingTakesTheLargestScoresAndBreaksTiesByTheLowestId) {
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f, -5.0f, 2.0f};
  std::vector<int32_t> ids(4);
  std::vector<float> weights(4);
  RouteArgs args{.logits = ConstView(logits, 6),
                 .k = 4,
                 .weighting = RouteWeights::kAsIs,
                 .ids = View(ids, 4),
                 .weights = View(weights, 4),
                 .rows = {0, 1}};
  ASSERT_TRUE(Reference().route(args));
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 3, 2, 5}));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - 3.0);
  // exp errs by 4 u; the sum of 6 values and the quotient add at most 7 u.
  for (size_t k = 0; k < 4; ++k) {
    const double exact = std::exp(logits[static_cast<size_t>(ids[k])] - 3.0) / sum;
    EXPECT_NEAR(weights[k], exact, exact * 16 * kU);
  }
  args.weighting = RouteWeights::kRenormalized;
  ASSERT_TRUE(Reference().route(args));
  EXPECT_NEAR(static_cast<double>(weights[0]) + weights[1] + weights[2] + weights[3], 1.0, 8 * kU);
}

TEST(Accuracy, SelectionBiasChangesTheChoiceButNotTheWeights) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  const std::vector<float> selection_bias = {2.0f, 0.0f, -1.0f, 1.0f};
  std::vector<int32_t> ids(2);
  std::vector<float> weights(2);
  ASSERT_TRUE(Reference().route({.logits = ConstView(logits, 4),
                                 .k = 2,
                                 .scores = RouteScores::kSigmoid,
                                 .selection_bias = selection_bias.data(),
                                 .weighting = RouteWeights::kRenormalized,
                                 .routed_scaling_factor = 2.5f,
                                 .ids = View(ids, 2),
                                 .weights = View(weights, 2),
                                 .rows = {0, 1}}));
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 3}));  // Scores with bias 2.5 and 1.27, above 0.73 and -0.12.
  const double last = 1 / (1 + std::exp(1.0));
  EXPECT_NEAR(weights[0], 2.5 * 0.5 / (0.5 + last), 16 * kU * 2.5);
  EXPECT_NEAR(weights[1], 2.5 * last / (0.5 + last), 16 * kU * 2.5);
}

TEST(Accuracy, RoutingTakesExpertsOfTheHighestRankedGroupsOnly) {
  // Four groups of two. Groups 0 and 3 have the largest scores, groups 1 and 2 the largest sums of two.
  const std::vector<float> logits = {5.0f, -9.0f, 3.0f, 2.9f, 2.8f, 2.7f, 4.0f, -9.0f};
  std::vector<int32_t> ids(3);
  std::vector<float> weights(3);
  RouteArgs args{.logits = ConstView(logits, 8),
                 .k = 3,
                 .scores = RouteScores::kLogits,
                 .groups = {.count = 4, .topk_group = 2},
                 .weighting = RouteWeights::kAsIs,
                 .ids = View(ids, 3),
                 .weights = View(weights, 3),
                 .rows = {0, 1}};
  ASSERT_TRUE(Reference().route(args));
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 6, 1}));
  args.groups.by_top_two = true;
  ASSERT_TRUE(Reference().route(args));
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 3, 4}));
  EXPECT_EQ(weights, (std::vector<float>{3.0f, 2.9f, 2.8f}));
  args.weighting = RouteWeights::kSoftmax;
  ASSERT_TRUE(Reference().route(args));
  const double sum =
      1 + std::exp(static_cast<double>(2.9f - 3.0f)) + std::exp(static_cast<double>(2.8f - 3.0f));
  EXPECT_NEAR(weights[0], 1 / sum, 16 * kU);
}

TEST(Accuracy, ASinkTakesItsShareOfTheWeights) {
  // One position with score s and value v: out = v e^s / (e^s + e^sink).
  const int64_t head_dim = 16;
  for (const float sink : {-3.0f, 0.5f, 4.0f}) {
    CacheStorage cache = MakeCache(1, 1, head_dim, DType::kF32);
    const std::vector<float> key(16, 0.25f), value(16, 2.0f), query(16, 0.5f);
    Reference().append_kv({.cache = cache.view,
                           .block = BlockId{0},
                           .position = 0,
                           .key = key.data(),
                           .value = value.data(),
                           .kv_heads = {0, 1}});
    std::vector<float> out(16);
    const BlockId block{0};
    const AttentionRow row{query.data(), out.data(), &block, {0, 1}};
    Reference().attention({.cache = cache.view,
                           .group = 1,
                           .scale = 1,
                           .sinks = &sink,
                           .rows = &row,
                           .row_range = {0, 1},
                           .kv_heads = {0, 1}});
    const double exact = 2.0 / (1 + std::exp(static_cast<double>(sink) - 2.0));
    for (const float x : out) EXPECT_NEAR(x, exact, 2.0 * 16 * kU);
  }
}

TEST(Accuracy, ASoftCapBendsScoresAsTanhDoes) {
  // Two positions with scores s and 0 and values 1 and 0: out = 1 / (1 + e^-capped), capped = c tanh(s / c).
  const int64_t head_dim = 16;
  CacheStorage cache = MakeCache(1, 1, head_dim, DType::kF32);
  const BlockId block{0};
  for (const int64_t position : {0, 1}) {
    const std::vector<float> row(16, position == 0 ? 1.0f : 0.0f);
    Reference().append_kv({.cache = cache.view,
                           .block = block,
                           .position = position,
                           .key = row.data(),
                           .value = row.data(),
                           .kv_heads = {0, 1}});
  }
  for (const float cap : {1.0f, 5.0f, 50.0f}) {
    for (const float score : {-200.0f, -7.0f, -1.0f, -1e-3f, 1e-6f, 0.3f, 2.0f, 8.0f, 1000.0f}) {
      const std::vector<float> query(16, score / 16);
      std::vector<float> out(16);
      const AttentionRow row{query.data(), out.data(), &block, {0, 2}};
      Reference().attention({.cache = cache.view,
                             .group = 1,
                             .scale = 1,
                             .softcap = cap,
                             .rows = &row,
                             .row_range = {0, 1},
                             .kv_heads = {0, 1}});
      const double c = cap;
      const double capped = c * std::tanh(static_cast<double>(score) / c);
      const double exact = 1 / (1 + std::exp(-capped));
      // The sum of 16 terms, and tanh: 32 ulp of the score, which the exponential passes on; then a few ulp.
      const double bound = exact * (32 * kU * std::fabs(capped) + 16 * kU) + 1e-30;
      for (const float x : out) EXPECT_NEAR(x, exact, bound) << "cap " << cap << ", score " << score;
    }
  }
}

TEST(Accuracy, ExpertSumsDoNotDependOnOrder) {
  RandomStream random(8);
  const int64_t cols = 64, experts = 8;
  const std::vector<float> y = RandomFloats(random, experts * cols);
  const std::vector<float> weights = {0.5f, 0.2f, 0.1f, 0.07f, 0.05f, 0.04f, 0.03f, 0.01f};
  std::vector<int32_t> order = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<int32_t> targets(1, 0);
  std::map<std::vector<uint32_t>, int> results;
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> acc(cols);
    for (const int32_t e : order) {
      ASSERT_TRUE(Reference().accumulate_fixed({.y = MatView<const float>(y.data() + e * cols, 1, cols),
                                                .weights = weights.data() + e,
                                                .targets = targets.data(),
                                                .acc = View(acc, cols),
                                                .cols = {0, cols}}));
    }
    std::vector<float> out(cols);
    Reference().fixed_to_float(
        {.acc = ConstView(acc, cols), .y = View(out, cols), .store = FixedStore::kAssign, .rows = {0, 1}});
    for (size_t c = 0; c < cols; ++c) {
      double exact = 0, magnitude = 0;
      for (size_t e = 0; e < experts; ++e) {
        const double term = static_cast<double>(weights[e]) * y[e * cols + c];
        exact += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(out[c], exact, kU * magnitude + experts * 0x1p-41 + kU * std::fabs(exact));
    }
    ++results[Bits(out)];
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  }
  EXPECT_EQ(results.size(), 1u);
}

// One row of the delta rule from a given state. The bound of each result adds its own roundings to those of
// its inputs.
TEST(Accuracy, DeltaRuleErrsByItsRoundingsOnly) {
  RandomStream random(31);
  for (const int64_t keys : {5, 128}) {
    const int64_t values = 40;
    const std::vector<float> query = RandomFloats(random, keys), key = RandomFloats(random, keys);
    const std::vector<float> value = RandomFloats(random, values);
    const std::vector<float> state = RandomFloats(random, keys * values);
    const float decay = 0.93f, beta = 0.4f;
    std::vector<float> next(state.size()), out(value.size());
    Reference().delta_rule({.query = ConstView(query, keys),
                            .key = ConstView(key, keys),
                            .value = ConstView(value, values),
                            .decay = MatView<const float>(&decay, 1, 1),
                            .beta = MatView<const float>(&beta, 1, 1),
                            .state_in = state.data(),
                            .state_out = next.data(),
                            .out = View(out, values)});
    const double chain = static_cast<double>(keys) * kU * 1.01;
    for (int64_t j = 0; j < values; ++j) {
      const auto at = [&](int64_t i) { return static_cast<size_t>(i * values + j); };
      double memory = 0, memory_size = 0;
      for (int64_t i = 0; i < keys; ++i) {
        const double term = double{key[static_cast<size_t>(i)]} * decay * state[at(i)];
        memory += term;
        memory_size += std::fabs(term);
      }
      const double memory_error = (chain + kU) * memory_size;
      const double difference = value[static_cast<size_t>(j)] - memory;
      const double delta = difference * beta;
      const double delta_error = beta * (memory_error * (1 + 2 * kU) + 2 * kU * std::fabs(difference)) * 1.01;
      double sum = 0, sum_size = 0, sum_error = 0;
      for (int64_t i = 0; i < keys; ++i) {
        const double k = key[static_cast<size_t>(i)];
        const double q = query[static_cast<size_t>(i)];
        const double exact = decay * double{state[at(i)]} + k * delta;
        const double error =
            std::fabs(k) * delta_error + kU * std::fabs(decay * state[at(i)]) + kU * std::fabs(exact) * 1.01;
        EXPECT_NEAR(next[at(i)], exact, error) << keys;
        sum += q * exact;
        sum_size += std::fabs(q * exact);
        sum_error += std::fabs(q) * error;
      }
      EXPECT_NEAR(out[static_cast<size_t>(j)], sum, (sum_error + chain * sum_size) * 1.01) << keys;
    }
  }
}

// Some rows of the selective scan, each from the state that the row before left. The bound of each result adds its own
// roundings to those of its inputs; the exponential errs by 2 ulp = 4 u.
TEST(Accuracy, SelectiveScanErrsByItsRoundingsOnly) {
  RandomStream random(34);
  const int64_t channels = 24;
  for (const int64_t state_dim : {3, 16}) {
    const std::vector<float> x = RandomFloats(random, channels), skip = RandomFloats(random, channels);
    const std::vector<float> key = RandomFloats(random, state_dim), query = RandomFloats(random, state_dim);
    std::vector<float> step, rate;
    for (int64_t c = 0; c < channels; ++c) step.push_back(static_cast<float>(random.uniform()));
    for (int64_t i = 0; i < state_dim * channels; ++i)
      rate.push_back(static_cast<float>(-16 * random.uniform()));
    std::vector<float> state = RandomFloats(random, state_dim * channels);
    for (int round = 0; round < 3; ++round) {
      std::vector<float> next(state.size()), out(x.size());
      Reference().selective_scan({.x = ConstView(x, channels),
                                  .step = ConstView(step, channels),
                                  .key = ConstView(key, state_dim),
                                  .query = ConstView(query, state_dim),
                                  .rate = rate.data(),
                                  .skip = skip.data(),
                                  .state_in = state.data(),
                                  .state_out = next.data(),
                                  .out = View(out, channels),
                                  .cols = {0, channels}});
      for (int64_t c = 0; c < channels; ++c) {
        const auto i = static_cast<size_t>(c);
        const double taken = double{step[i]} * x[i];
        double sum = 0, sum_size = 0, sum_error = 0;
        for (int64_t n = 0; n < state_dim; ++n) {
          const auto at = static_cast<size_t>(n * channels + c);
          const double k = key[static_cast<size_t>(n)], q = query[static_cast<size_t>(n)];
          const double exponent = double{step[i]} * rate[at];
          const double kept = std::exp(exponent) * state[at];
          const double exact = kept + k * taken;
          // Roundings of the exponent, the exponential and its product; of what is taken; of the sum.
          const double error =
              (std::fabs(kept) * (std::fabs(exponent) + 5) + std::fabs(k * taken) + std::fabs(exact)) * kU *
              1.01;
          EXPECT_NEAR(next[at], exact, error) << state_dim;
          sum += q * exact;
          sum_size += std::fabs(q * exact);
          sum_error += std::fabs(q) * error;
        }
        const double skipped = double{skip[i]} * x[i];
        const double chain = static_cast<double>(state_dim) * kU;
        EXPECT_NEAR(out[i], sum + skipped,
                    (sum_error + chain * sum_size + kU * std::fabs(sum + skipped)) * 1.01)
            << state_dim;
      }
      state = next;
    }
  }
}

}  // namespace
}  // namespace shoal
