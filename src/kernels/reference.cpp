// The definition of the arithmetic: every kernel in plain scalar code, in the order of operations that
// defines the results. The vector files must give the same bits (kernels_test.cpp); if they differ, this file
// is right. Compiled with FMA3 on x86, so that __builtin_fmaf is one instruction.
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

constexpr int kLanes = 16;

float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
bool IsFinite(float x) { return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }

// The order of every horizontal sum.
float FoldLanes(float lanes[kLanes]) {
  for (int width = kLanes / 2; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// e^x = (1 + rest) power, for x = n ln 2 + r in [-87, 88.37] with |r| <= ln 2 / 2: rest = e^r - 1, power = 2^n.
// Source: the polynomial of Cephes' expf (S. Moshier).
struct ExpFactors {
  float rest;
  float power;
};
ExpFactors ExpFactorsOf(float x) {
  constexpr float kRound = 0x1.8p23f;  // Adding it leaves round(x / ln 2) in the low bits.
  const float shifted = Fma(x, 0x1.715476p0f, kRound);
  const float n = shifted - kRound;
  float r = Fma(n, -0x1.63p-1f, x);
  r = Fma(n, 0x1.bd0106p-13f, r);
  float p = 1.9875691500e-4f;
  p = Fma(p, r, 1.3981999507e-3f);
  p = Fma(p, r, 8.3334519073e-3f);
  p = Fma(p, r, 4.1665795894e-2f);
  p = Fma(p, r, 1.6666665459e-1f);
  p = Fma(p, r, 5.0000001201e-1f);
  return {Fma(p, r * r, r), std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u)};
}

// e^x within 2 ulp for x in [-87, 88.37]. Below, 0; above, the value at 88.37, so that 1 + exp stays finite.
// NaN stays NaN.
float ExpF32(float x) {
  const ExpFactors factors = ExpFactorsOf(88.37f < x ? 88.37f : x);
  return x < -87.0f ? 0.0f : (factors.rest + 1.0f) * factors.power;
}

// tanh(x) within 4 ulp, also near 0: with m = e^(-2|x|) - 1 it is -m / (2 + m), with the sign of x. Beyond |x| = 15 it
// is 1. NaN stays NaN.
float TanhF32(float x) {
  const float twice = (x < 0.0f ? x : -x) * 2.0f;
  const ExpFactors factors = ExpFactorsOf(twice < -30.0f ? -30.0f : twice);
  const float m = Fma(factors.rest, factors.power, factors.power - 1.0f);
  const float size = -m / (2.0f + m);
  return x < 0.0f ? -size : size;
}

// e^x - 1 within 4 ulp for x <= 0, also near 0. Below -30 it is -1. NaN stays NaN.
float Expm1F32(float x) {
  const ExpFactors factors = ExpFactorsOf(x < -30.0f ? -30.0f : x);
  return Fma(factors.rest, factors.power, factors.power - 1.0f);
}

float LoadElement(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

// ---- Quantized activations ----

bool QuantizeGroup(const float* x, int group, int8_t* codes, float* scale, float* sum_out) {
  uint32_t largest = 0;  // The bits of magnitudes have the same order as the magnitudes.
  for (int i = 0; i < group; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = largest < magnitude ? magnitude : largest;
  }
  if (largest >= 0x7f800000u) return false;
  const float absmax = std::bit_cast<float>(largest);
  if (absmax < 127.0f * 0x1p-126f) {
    std::memset(codes, 0, static_cast<size_t>(group));
    *scale = 0.0f;
    *sum_out = 0.0f;
    return true;
  }
  const float inverse = 127.0f / absmax;
  int32_t sum = 0;
  for (int i = 0; i < group; ++i) {
    const float rounded = (x[i] * inverse + 0x1.8p23f) - 0x1.8p23f;  // Nearest integer, ties to even.
    codes[i] = static_cast<int8_t>(rounded);
    sum += codes[i];
  }
  *scale = absmax / 127.0f;
  *sum_out = *scale * static_cast<float>(sum);
  return true;
}

bool quantize_rows(const QuantizeRowsArgs& args) {
  const int group = args.out.group;
  const int64_t groups = args.out.cols / group;
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = row * groups + g;
      if (!QuantizeGroup(args.x.data + row * args.x.stride + g * group, group, args.out.codes + at * group,
                         args.out.scales + at, args.out.sums + at)) {
        return false;
      }
    }
  }
  return true;
}

// ---- Matrix products ----

int PlaneBits(const uint8_t* plane, int width, int lane, int col) {
  const int block = col / 4;
  const int per_register = 8 / width;
  const uint8_t byte = plane[block / per_register * 64 + lane * 4 + col % 4];
  return (byte >> (block % per_register * width)) & ((1 << width) - 1);
}

// The code of (lane, col) in a panel of 32 columns; packed.h describes the planes.
int CodeInPanel(const uint8_t* panel, int bits, int lane, int col) {
  switch (bits) {
    case 8:
    case 4:
    case 2:
      return PlaneBits(panel, bits, lane, col);
    case 6:
      return PlaneBits(panel, 4, lane, col) | PlaneBits(panel + 256, 2, lane, col) << 4;
    case 5:
      return PlaneBits(panel, 4, lane, col) | PlaneBits(panel + 256, 1, lane, col) << 4;
    default:
      return PlaneBits(panel, 2, lane, col) | PlaneBits(panel + 128, 1, lane, col) << 2;
  }
}

// One row (lane) of one group: its codes, scale and bias.
struct WeightGroup {
  const uint8_t* record;  // In which the group is the only one, or one of two of 16 columns.
  int64_t index;          // In its record.
  const PackedFormat& format;
  int lane;

  int code(int col) const {
    const int at = static_cast<int>(index) * format.group + col;
    return CodeInPanel(record + at / 32 * format.bits * 64, format.bits, lane, at % 32);
  }
  int64_t code_bytes() const { return format.bits * 64 * (AffineSpan(format.group) / 32); }
  int64_t scale_bytes() const { return kLanes * (format.dtype == DType::kF32 ? 4 : 2); }
  const uint8_t* scales() const { return record + code_bytes() + index * 2 * scale_bytes(); }
  float scale() const { return LoadElement(scales(), format.dtype, lane); }
  float bias() const { return LoadElement(scales() + scale_bytes(), format.dtype, lane); }
};

WeightGroup GroupOf(const PackedView& w, int64_t row, int64_t index) {
  const int64_t together = AffineGroupsTogether(w.format.group);
  WeightGroup group{w.data + row / kLanes * w.tile_bytes, index % together, w.format,
                    static_cast<int>(row % kLanes)};
  group.record += index / together * (group.code_bytes() + together * 2 * group.scale_bytes());
  return group;
}

int64_t EndRow(const PackedView& w, Range tiles) {
  return tiles.end * kTileRows < w.rows ? tiles.end * kTileRows : w.rows;
}

void matmul_affine(const MatmulAffineArgs& args) {
  const int group = args.w.format.group;
  const int64_t groups = args.w.cols / group;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (int64_t n = args.tiles.begin * kTileRows; n < EndRow(args.w, args.tiles); ++n) {
      float acc = 0.0f;
      for (int64_t g = 0; g < groups; ++g) {
        const WeightGroup weights = GroupOf(args.w, n, g);
        const int8_t* codes = args.x.codes + t * args.x.cols + g * group;
        int32_t dot = 0;
        for (int k = 0; k < group; ++k) dot += weights.code(k) * codes[k];
        const float p = weights.scale() * args.x.scales[t * groups + g];
        acc = Fma(static_cast<float>(dot), p, acc);
        acc = Fma(weights.bias(), args.x.sums[t * groups + g], acc);
      }
      args.y.data[t * args.y.stride + n] = acc;
    }
  }
}

float WeightAt(const PackedView& w, int64_t row, int64_t col) {
  if (w.format.bits == 0) {
    return LoadElement(w.data + row / kLanes * w.tile_bytes, w.format.dtype, col * kLanes + row % kLanes);
  }
  const WeightGroup group = GroupOf(w, row, col / w.format.group);
  const float product =
      group.scale() * static_cast<float>(group.code(static_cast<int>(col % w.format.group)));
  return product + group.bias();
}

// The sum of a block: row n of w times x over columns [cols.begin, cols.end).
float FloatBlockSum(const PackedView& w, int64_t n, const float* x, Range cols) {
  float acc = 0.0f;
  for (int64_t k = cols.begin; k < cols.end; ++k) acc = Fma(WeightAt(w, n, k), x[k], acc);
  return acc;
}

void matmul_float(const MatmulFloatArgs& args) {
  for (int64_t n = args.tiles.begin * kTileRows; n < EndRow(args.w, args.tiles); ++n) {
    for (int64_t t = 0; t < args.x.rows; ++t) {
      const float* x = args.x.data + t * args.x.stride;
      float total = -0.0f;  // -0 + x is x for every x, so that the first sum is taken as it is.
      for (int64_t k = 0; k < args.w.cols; k += kFloatBlockColumns) {
        const int64_t end = k + kFloatBlockColumns < args.w.cols ? k + kFloatBlockColumns : args.w.cols;
        total += FloatBlockSum(args.w, n, x, {k, end});
      }
      args.y.data[t * args.y.stride + n] = total;
    }
  }
}

// ---- Rows ----

void rms_norm(const RmsNormArgs& args) {
  const int64_t cols = args.x.cols;
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* x = args.x.data + row * args.x.stride;
    float* y = args.y.data + row * args.y.stride;
    float lanes[kLanes] = {};
    for (int64_t c = 0; c < cols; ++c) lanes[c % kLanes] = Fma(x[c], x[c], lanes[c % kLanes]);
    const float mean = FoldLanes(lanes) / static_cast<float>(cols);
    const float factor = 1.0f / __builtin_sqrtf(mean + args.eps);
    for (int64_t c = 0; c < cols; ++c) y[c] = x[c] * factor * args.weight[c];
  }
}

void layer_norm(const LayerNormArgs& args) {
  const int64_t cols = args.x.cols;
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* x = args.x.data + row * args.x.stride;
    float* y = args.y.data + row * args.y.stride;
    float lanes[kLanes] = {};
    for (int64_t c = 0; c < cols; ++c) lanes[c % kLanes] += x[c];
    const float mean = FoldLanes(lanes) / static_cast<float>(cols);
    float squares[kLanes] = {};
    for (int64_t c = 0; c < cols; ++c) {
      squares[c % kLanes] = Fma(x[c] - mean, x[c] - mean, squares[c % kLanes]);
    }
    const float factor = 1.0f / __builtin_sqrtf(FoldLanes(squares) / static_cast<float>(cols) + args.eps);
    for (int64_t c = 0; c < cols; ++c) {
      const float scaled = (x[c] - mean) * factor * args.weight[c];
      y[c] = args.bias == nullptr ? scaled : scaled + args.bias[c];
    }
  }
}

void add_rows(const AddRowsArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* x = args.x.data + row * args.x.stride;
    float* y = args.y.data + row * args.y.stride;
    for (int64_t c = 0; c < args.x.cols; ++c) {
      y[c] += args.scales == nullptr ? x[c] : args.scales[row] * x[c];
    }
  }
}

void add_bias(const AddBiasArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    float* y = args.y.data + row * args.y.stride;
    for (int64_t c = 0; c < args.y.cols; ++c) y[c] += args.bias[c];
  }
}

void rope(const RopeArgs& args) {
  const int64_t half = args.rotary / 2;
  const bool split = args.pairing == RopePairing::kHalfSplit;
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* cosine = args.cosine.data + row * args.cosine.stride;
    const float* sine = args.sine.data + row * args.sine.stride;
    for (int64_t head = 0; head < args.heads; ++head) {
      float* x = args.x.data + row * args.x.stride + head * args.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        float& first = x[split ? i : 2 * i];
        float& second = x[split ? i + half : 2 * i + 1];
        const float a = first;
        const float b = second;
        first = Fma(a, cosine[i], -(b * sine[i]));
        second = Fma(b, cosine[i], a * sine[i]);
      }
    }
  }
}

void silu_mul(const SiluMulArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* gate = args.gate.data + row * args.gate.stride;
    const float* up = args.up.data + row * args.up.stride;
    float* out = args.out.data + row * args.out.stride;
    for (int64_t c = 0; c < args.gate.cols; ++c) out[c] = gate[c] / (1.0f + ExpF32(-gate[c])) * up[c];
  }
}

constexpr float kGelu1 = -1.5957691216f;  // -2 sqrt(2 / pi)
constexpr float kGelu2 = -0.0713548162726f;

void gelu_mul(const GeluMulArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* gate = args.gate.data + row * args.gate.stride;
    const float* up = args.up.data + row * args.up.stride;
    float* out = args.out.data + row * args.out.stride;
    for (int64_t c = 0; c < args.gate.cols; ++c) {
      const float x = gate[c];
      out[c] = x / (1.0f + ExpF32(x * Fma(x * x, kGelu2, kGelu1))) * up[c];
    }
  }
}

void clamped_swiglu(const ClampedSwigluArgs& args) {
  const float limit = args.limit;
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* gate = args.gate.data + row * args.gate.stride;
    const float* up = args.up.data + row * args.up.stride;
    float* out = args.out.data + row * args.out.stride;
    for (int64_t c = 0; c < args.gate.cols; ++c) {
      const float g = limit < gate[c] ? limit : gate[c];
      const float below = limit < up[c] ? limit : up[c];
      const float u = below < -limit ? -limit : below;
      out[c] = g / (1.0f + ExpF32(g * -1.702f)) * (u + 1.0f);
    }
  }
}

void clamped_silu_mul(const ClampedSiluMulArgs& args) {
  const float limit = args.limit;
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* gate = args.gate.data + row * args.gate.stride;
    const float* up = args.up.data + row * args.up.stride;
    float* out = args.out.data + row * args.out.stride;
    for (int64_t c = 0; c < args.gate.cols; ++c) {
      const float silu = gate[c] / (1.0f + ExpF32(-gate[c]));
      const float below = limit < up[c] ? limit : up[c];
      const float u = below < -limit ? -limit : below;
      out[c] = (limit < silu ? limit : silu) * u;
    }
  }
}

float Xielu(float x, const XieluShape& shape) {
  const float above = Fma(shape.positive * x, x, shape.slope * x);
  const float bent = Expm1F32(x < shape.top ? x : shape.top) - x;
  return 0.0f < x ? above : Fma(bent, shape.negative, shape.slope * x);
}

float Activate(const ActivateArgs& args, float x) {
  if (args.activation == Activation::kXielu) return Xielu(x, args.xielu);
  if (args.activation == Activation::kGelu) return x / (1.0f + ExpF32(x * Fma(x * x, kGelu2, kGelu1)));
  const float above = x < 0.0f ? 0.0f : x;
  return above * above;
}

void activate(const ActivateArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* x = args.x.data + row * args.x.stride;
    float* out = args.out.data + row * args.out.stride;
    for (int64_t c = 0; c < args.x.cols; ++c) out[c] = Activate(args, x[c]);
  }
}

void sigmoid_mul(const SigmoidMulArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const float* gate = args.gate.data + row * args.gate.stride;
    const float* up = args.up.data + row * args.up.stride;
    float* out = args.out.data + row * args.out.stride;
    for (int64_t c = 0; c < args.gate.cols; ++c) out[c] = up[c] / (1.0f + ExpF32(-gate[c]));
  }
}

// ---- Recurrent layers ----

void causal_conv(const CausalConvArgs& args) {
  const int64_t before = args.before.rows;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (int64_t c = args.cols.begin; c < args.cols.end; ++c) {
      float sum = args.bias == nullptr ? 0.0f : args.bias[c];
      for (int64_t j = 0; j <= before; ++j) {
        const int64_t from = t - before + j;
        const float x = from < 0 ? args.before.data[(before + from) * args.before.stride + c]
                                 : args.x.data[from * args.x.stride + c];
        sum = Fma(args.weight[j * args.x.cols + c], x, sum);
      }
      const bool silu = args.activation == ConvActivation::kSilu;
      args.out.data[t * args.out.stride + c] = silu ? sum / (1.0f + ExpF32(-sum)) : sum;
    }
  }
}

void delta_rule(const DeltaRuleArgs& args) {
  const int64_t rows = args.key.cols;
  const int64_t cols = args.value.cols;
  const float* state = args.state_in;
  for (int64_t t = 0; t < args.key.rows; ++t) {
    const float* query = args.query.data + t * args.query.stride;
    const float* key = args.key.data + t * args.key.stride;
    const float* decay = args.decay.data + t * args.decay.stride;
    const int64_t step = args.decay.cols == 1 ? 0 : 1;
    for (int64_t j = 0; j < cols; ++j) {
      float taken = args.value.data[t * args.value.stride + j];
      if (args.rule == StateRule::kDelta) {
        float memory = 0.0f;
        for (int64_t i = 0; i < rows; ++i)
          memory = Fma(key[i], decay[i * step] * state[i * cols + j], memory);
        taken = taken - memory;
      }
      const float delta = taken * args.beta.data[t * args.beta.stride];
      float out = 0.0f;
      for (int64_t i = 0; i < rows; ++i) {
        const float next = Fma(key[i], delta, decay[i * step] * state[i * cols + j]);
        args.state_out[i * cols + j] = next;
        out = Fma(query[i], next, out);
      }
      args.out.data[t * args.out.stride + j] = out;
    }
    state = args.state_out;
  }
}

void selective_scan(const SelectiveScanArgs& args) {
  const int64_t channels = args.x.cols;
  const float* state = args.state_in;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    const float* query = args.query.data + t * args.query.stride;
    const float* key = args.key.data + t * args.key.stride;
    for (int64_t c = args.cols.begin; c < args.cols.end; ++c) {
      const float x = args.x.data[t * args.x.stride + c];
      const float step = args.step.data[t * args.step.stride + c];
      const float taken = step * x;
      float out = 0.0f;
      for (int64_t n = 0; n < args.key.cols; ++n) {
        const int64_t at = n * channels + c;
        const float next = Fma(key[n], taken, ExpF32(step * args.rate[at]) * state[at]);
        args.state_out[at] = next;
        out = Fma(query[n], next, out);
      }
      args.out.data[t * args.out.stride + c] = Fma(args.skip[c], x, out);
    }
    state = args.state_out;
  }
}

// ---- Attention ----

int64_t StoreElement(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
    return 0;
  }
  if (dtype == DType::kBF16) {
    static_cast<uint16_t*>(data)[index] = F32ToBF16(value);
    return 0;
  }
  static_cast<uint16_t*>(data)[index] = F32ToF16Saturating(value);
  return SaturatesF16(value) ? 1 : 0;
}

// The scales of a head of int8 keys or values in a block: behind its codes.
int64_t ScaleAt(int64_t head_dim, int64_t group, int64_t index) {
  return kBlockPositions * KvKeyColumns(head_dim) + 2 * (group * kBlockPositions + index);
}
float ScaleOf(const std::byte* head, int64_t head_dim, int64_t group, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, head + ScaleAt(head_dim, group, index), sizeof(bits));
  return BF16ToF32(bits);
}

// Rounds n elements, at most 64, to codes; returns the bits of their scale.
uint16_t CodeGroup(const float* x, int64_t n, int8_t* codes) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = largest < magnitude ? magnitude : largest;
  }
  std::memset(codes, 0, kKvGroupDims);
  if (largest >= 0x7f800000u) return 0x7fc0;  // NaN
  const float absmax = std::bit_cast<float>(largest);
  if (absmax < 127.0f * 0x1p-126f) return 0;
  const uint16_t scale = BF16AtLeast(absmax / 127.0f);
  const float inverse = 1.0f / BF16ToF32(scale);
  for (int64_t i = 0; i < n; ++i) {
    const float rounded = (x[i] * inverse + 0x1.8p23f) - 0x1.8p23f;  // Nearest integer, ties to even.
    codes[i] = static_cast<int8_t>(rounded);
  }
  return scale;
}

// Writes a head's key (or value) at `index` of its block, as codes.
template <typename PlaceOf>
void AppendCodes(const float* x, int64_t head_dim, int64_t index, std::byte* head, PlaceOf place_of) {
  for (int64_t g = 0; g < KvGroups(head_dim); ++g) {
    const int64_t begin = g * kKvGroupDims;
    const int64_t n = head_dim - begin < kKvGroupDims ? head_dim - begin : kKvGroupDims;
    int8_t codes[kKvGroupDims];
    const uint16_t scale = CodeGroup(x + begin, n, codes);
    std::memcpy(head + ScaleAt(head_dim, g, index), &scale, sizeof(scale));
    for (int64_t i = 0; i < kKvGroupDims; ++i) place_of(begin + i, codes[i]);
  }
}

void AppendCodes(const AppendKvArgs& args, int64_t head, std::byte* keys, std::byte* values) {
  const int64_t head_dim = args.cache.head_dim;
  const int64_t index = args.position % kBlockPositions;
  std::byte* const head_keys = keys + head * KvHeadBytes(head_dim, DType::kI8);
  std::byte* const head_values = values + head * KvHeadBytes(head_dim, DType::kI8);
  AppendCodes(args.key + head * head_dim, head_dim, index, head_keys, [&](int64_t d, int8_t code) {
    if (d < KvKeyColumns(head_dim)) head_keys[KvKeyCodeAt(d, index)] = static_cast<std::byte>(code + 128);
  });
  AppendCodes(args.value + head * head_dim, head_dim, index, head_values, [&](int64_t d, int8_t code) {
    if (d < head_dim) head_values[KvValueCodeAt(d, index)] = static_cast<std::byte>(code + 128);
  });
}

int64_t append_kv(const AppendKvArgs& args) {
  const KvLayerView& cache = args.cache;
  const int64_t index = args.position % kBlockPositions;
  std::byte* keys = cache.keys + args.block.value * cache.block_stride;
  std::byte* values = cache.values + args.block.value * cache.block_stride;
  int64_t saturated = 0;
  for (int64_t head = args.kv_heads.begin; head < args.kv_heads.end; ++head) {
    if (cache.dtype == DType::kI8) {
      AppendCodes(args, head, keys, values);
      continue;
    }
    for (int64_t d = 0; d < cache.head_dim; ++d) {
      const int64_t at = head * cache.head_dim + d;
      saturated += StoreElement(keys, cache.dtype, at * kBlockPositions + index, args.key[at]);
      if (args.value == nullptr) continue;
      saturated += StoreElement(values, cache.dtype, (head * kBlockPositions + index) * cache.head_dim + d,
                                args.value[at]);
    }
  }
  return saturated;
}

// Keys and values of one head in one block.
struct HeadBlock {
  const std::byte* keys;
  const std::byte* values;
};

HeadBlock HeadBlockOf(const KvLayerView& cache, BlockId block, int64_t head) {
  const int64_t offset = block.value * cache.block_stride + head * KvHeadBytes(cache.head_dim, cache.dtype);
  return {cache.keys + offset, cache.values + offset};
}

// State of an online softmax: running maximum, sum of exponentials, weighted values.
struct Partial {
  float max;
  float sum;
  float* values;
};

constexpr float kMinusInfinity = -__builtin_inff();

// exp(a - b) for running maxima a and b; 0 if no position was seen before (a = -infinity).
float Correction(float a, float b) { return a == kMinusInfinity ? 0.0f : ExpF32(a - b); }

// A query as codes, for a cache of int8.
struct CodedQuery {
  int8_t codes[kHeadDimMax + kKvGroupDims];
  float scales[kHeadDimMax / kKvGroupDims + 1];
};

CodedQuery CodeQuery(const float* query, int64_t head_dim) {
  CodedQuery coded = {};
  for (int64_t g = 0; g < KvGroups(head_dim); ++g) {
    const int64_t begin = g * kKvGroupDims;
    const int64_t n = head_dim - begin < kKvGroupDims ? head_dim - begin : kKvGroupDims;
    float sum;
    if (!QuantizeGroup(query + begin, static_cast<int>(n), coded.codes + begin, coded.scales + g, &sum)) {
      std::memset(coded.codes + begin, 0, kKvGroupDims);
      coded.scales[g] = __builtin_nanf("");
    }
  }
  return coded;
}

struct HeadQuery {
  const KvLayerView& cache;
  const float* query;
  float scale;
  float softcap;
  CodedQuery coded;  // Of a cache of int8.

  HeadQuery(const KvLayerView& kv, const float* elements, float score_scale, float score_softcap)
      : cache(kv), query(elements), scale(score_scale), softcap(score_softcap) {
    if (cache.dtype == DType::kI8) coded = CodeQuery(query, cache.head_dim);
  }
};

// query . key of the position at `index`.
float Score(const HeadQuery& head, const std::byte* keys, int64_t index) {
  const int64_t head_dim = head.cache.head_dim;
  float score = 0.0f;
  if (head.cache.dtype != DType::kI8) {
    for (int64_t d = 0; d < head_dim; ++d) {
      score = Fma(head.query[d], LoadElement(keys, head.cache.dtype, d * kBlockPositions + index), score);
    }
    return score;
  }
  for (int64_t g = 0; g < KvGroups(head_dim); ++g) {
    int32_t dot = 0;
    for (int64_t d = g * kKvGroupDims; d < head_dim && d < (g + 1) * kKvGroupDims; ++d) {
      dot += (static_cast<int32_t>(keys[KvKeyCodeAt(d, index)]) - 128) * head.coded.codes[d];
    }
    score = Fma(static_cast<float>(dot), ScaleOf(keys, head_dim, g, index) * head.coded.scales[g], score);
  }
  return score;
}

// Adds the visible values of a block of int8, weighted with p, to values, which were corrected before.
void AddCodedValues(const KvLayerView& cache, const std::byte* head, const float* p, Range visible,
                    float* values) {
  for (int64_t g = 0; g < KvGroups(cache.head_dim); ++g) {
    float weights[kBlockPositions];
    uint32_t largest = 0;
    for (int64_t j = visible.begin; j < visible.end; ++j) {
      weights[j] = p[j] * ScaleOf(head, cache.head_dim, g, j);
      const uint32_t magnitude = std::bit_cast<uint32_t>(weights[j]) & 0x7fffffffu;
      largest = largest < magnitude ? magnitude : largest;
    }
    const float absmax = std::bit_cast<float>(largest);
    const bool zero = largest > 0x7f800000u || absmax < kKvWeightMax * 0x1p-126f;  // NaN, or next to nothing.
    const float scale = largest > 0x7f800000u ? absmax : zero ? 0.0f : absmax / kKvWeightMax;
    const float inverse = zero ? 0.0f : kKvWeightMax / absmax;
    for (int64_t d = g * kKvGroupDims; d < cache.head_dim && d < (g + 1) * kKvGroupDims; ++d) {
      int32_t dot = 0;
      for (int64_t j = visible.begin; !zero && j < visible.end; ++j) {
        const float rounded = (weights[j] * inverse + 0x1.8p23f) - 0x1.8p23f;  // Ties to even.
        dot += static_cast<int32_t>(rounded) * (static_cast<int32_t>(head[KvValueCodeAt(d, j)]) - 128);
      }
      values[d] = Fma(static_cast<float>(dot), scale, values[d]);
    }
  }
}

void AttendBlock(const HeadQuery& head, HeadBlock block, Range visible, Partial& partial) {
  const int64_t head_dim = head.cache.head_dim;
  float p[kBlockPositions];
  float block_max = kMinusInfinity;
  for (int64_t j = visible.begin; j < visible.end; ++j) {
    p[j] = Score(head, block.keys, j) * head.scale;
    if (head.softcap > 0.0f) p[j] = TanhF32(p[j] / head.softcap) * head.softcap;
    block_max = block_max < p[j] ? p[j] : block_max;
  }
  const float new_max = partial.max < block_max ? block_max : partial.max;
  for (int64_t j = 0; j < kBlockPositions; ++j) {
    const bool sees = visible.begin <= j && j < visible.end;
    p[j] = sees ? ExpF32(p[j] - new_max) : 0.0f;
  }
  float lanes[kLanes];
  for (int j = 0; j < kLanes; ++j) lanes[j] = p[j] + p[j + kLanes];
  const float correction = Correction(partial.max, new_max);
  partial.sum = Fma(partial.sum, correction, FoldLanes(lanes));
  partial.max = new_max;
  for (int64_t d = 0; d < head_dim; ++d) {
    float value = partial.values[d] * correction;
    for (int64_t j = visible.begin; head.cache.dtype != DType::kI8 && j < visible.end; ++j) {
      value = Fma(p[j], LoadElement(block.values, head.cache.dtype, j * head_dim + d), value);
    }
    partial.values[d] = value;
  }
  if (head.cache.dtype == DType::kI8) AddCodedValues(head.cache, block.values, p, visible, partial.values);
}

void Reset(Partial& partial, int64_t head_dim, const float* sink = nullptr) {
  partial.max = sink == nullptr ? kMinusInfinity : *sink;
  partial.sum = sink == nullptr ? 0.0f : 1.0f;
  for (int64_t d = 0; d < head_dim; ++d) partial.values[d] = 0.0f;
}

// Attends to the blocks of one split, for one query head.
void AttendSplit(const HeadQuery& head, int64_t kv_head, const AttentionRow& row, int64_t split,
                 Partial& partial) {
  Reset(partial, head.cache.head_dim);
  const int64_t split_begin = split * kAttentionSplitPositions;
  const int64_t split_end = split_begin + kAttentionSplitPositions;
  const int64_t begin = row.positions.begin < split_begin ? split_begin : row.positions.begin;
  const int64_t end = split_end < row.positions.end ? split_end : row.positions.end;
  for (int64_t block = begin / kBlockPositions; block * kBlockPositions < end; ++block) {
    const int64_t first = block * kBlockPositions;
    const Range visible{begin < first ? 0 : begin - first,
                        end - first < kBlockPositions ? end - first : kBlockPositions};
    AttendBlock(head, HeadBlockOf(head.cache, row.blocks[block], kv_head), visible, partial);
  }
}

void Merge(const Partial& next, int64_t head_dim, Partial& total) {
  const float new_max = total.max < next.max ? next.max : total.max;
  const float total_factor = Correction(total.max, new_max);
  const float next_factor = Correction(next.max, new_max);
  total.sum = Fma(total.sum, total_factor, next.sum * next_factor);
  total.max = new_max;
  for (int64_t d = 0; d < head_dim; ++d) {
    total.values[d] = Fma(total.values[d], total_factor, next.values[d] * next_factor);
  }
}

void Finish(const Partial& total, int64_t head_dim, float* out) {
  for (int64_t d = 0; d < head_dim; ++d) out[d] = total.values[d] / total.sum;
}

void attention(const AttentionArgs& args) {
  const int64_t head_dim = args.cache.head_dim;
  float split_values[kHeadDimMax];
  float total_values[kHeadDimMax];
  for (int64_t r = args.row_range.begin; r < args.row_range.end; ++r) {
    const AttentionRow& row = args.rows[r];
    const int64_t last_split = (row.positions.end - 1) / kAttentionSplitPositions;
    for (int64_t h = args.kv_heads.begin * args.group; h < args.kv_heads.end * args.group; ++h) {
      const HeadQuery head{args.cache, row.query + h * head_dim, args.scale, args.softcap};
      Partial total{0, 0, total_values};
      Reset(total, head_dim, args.sinks == nullptr ? nullptr : args.sinks + h);
      for (int64_t split = row.positions.begin / kAttentionSplitPositions; split <= last_split; ++split) {
        Partial partial{0, 0, split_values};
        AttendSplit(head, h / args.group, row, split, partial);
        Merge(partial, head_dim, total);
      }
      Finish(total, head_dim, row.out + h * head_dim);
    }
  }
}

void attention_partial(const AttentionPartialArgs& args) {
  const int64_t head_dim = args.cache.head_dim;
  const int64_t heads = args.cache.kv_heads * args.group;
  const int64_t first_split = args.row.positions.begin / kAttentionSplitPositions;
  for (int64_t split = args.splits.begin; split < args.splits.end; ++split) {
    for (int64_t h = args.kv_heads.begin * args.group; h < args.kv_heads.end * args.group; ++h) {
      float* at = args.partials + ((split - first_split) * heads + h) * (head_dim + 16);
      Partial partial{0, 0, at + 16};
      AttendSplit({args.cache, args.row.query + h * head_dim, args.scale, args.softcap}, h / args.group,
                  args.row, split, partial);
      at[0] = partial.max;
      at[1] = partial.sum;
    }
  }
}

void attention_merge(const AttentionMergeArgs& args) {
  float total_values[kHeadDimMax];
  float next_values[kHeadDimMax];
  for (int64_t h = args.head_range.begin; h < args.head_range.end; ++h) {
    Partial total{0, 0, total_values};
    Reset(total, args.head_dim, args.sinks == nullptr ? nullptr : args.sinks + h);
    for (int64_t split = 0; split < args.splits; ++split) {
      const float* at = args.partials + (split * args.heads + h) * (args.head_dim + 16);
      std::memcpy(next_values, at + 16, static_cast<size_t>(args.head_dim) * sizeof(float));
      Merge({at[0], at[1], next_values}, args.head_dim, total);
    }
    Finish(total, args.head_dim, args.out + h * args.head_dim);
  }
}

void index_scores(const IndexScoresArgs& args) {
  const KvLayerView& cache = args.keys;
  for (int64_t p = args.positions.begin; p < args.positions.end; ++p) {
    const std::byte* keys = HeadBlockOf(cache, args.blocks[p / kBlockPositions], 0).keys;
    float sum = 0.0f;
    for (int64_t h = 0; h < args.heads; ++h) {
      float dot = 0.0f;
      for (int64_t d = 0; d < cache.head_dim; ++d) {
        const float key = LoadElement(keys, cache.dtype, d * kBlockPositions + p % kBlockPositions);
        dot = Fma(args.query[h * cache.head_dim + d], key, dot);
      }
      if (args.weights == nullptr) {
        args.scores.data[h * args.scores.stride + p] = dot;
      } else {
        sum = Fma(args.weights[h], dot < 0.0f ? 0.0f : dot, sum);
      }
    }
    if (args.weights != nullptr) args.scores.data[p] = sum;
  }
}

// ---- Experts ----

// p = softmax(logits). False if a logit is not finite.
bool Softmax(const float* logits, int64_t size, float* p) {
  float largest = logits[0];
  for (int64_t e = 0; e < size; ++e) {
    if (!IsFinite(logits[e])) return false;
    largest = largest < logits[e] ? logits[e] : largest;
  }
  float lanes[kLanes] = {};
  for (int64_t e = 0; e < size; ++e) {
    p[e] = ExpF32(logits[e] - largest);
    lanes[e % kLanes] += p[e];
  }
  const float sum = FoldLanes(lanes);
  for (int64_t e = 0; e < size; ++e) p[e] = p[e] / sum;
  return true;
}

bool Scores(const RouteArgs& args, const float* logits, float* scores) {
  const int64_t experts = args.logits.cols;
  if (args.scores == RouteScores::kSoftmax) return Softmax(logits, experts, scores);
  for (int64_t e = 0; e < experts; ++e) {
    if (!IsFinite(logits[e])) return false;
    scores[e] = args.scores == RouteScores::kSigmoid ? 1.0f / (1.0f + ExpF32(-logits[e])) : logits[e];
  }
  return true;
}

// Sets the experts outside the chosen groups to -infinity.
void KeepGroups(const RouteGroups& groups, int64_t experts, float* compared) {
  const int64_t size = experts / groups.count;
  float rank[kExpertsMax];
  bool chosen[kExpertsMax] = {};
  for (int64_t g = 0; g < groups.count; ++g) {
    float first = kMinusInfinity, second = kMinusInfinity;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      if (first < compared[e]) {
        second = first;
        first = compared[e];
      } else if (second < compared[e]) {
        second = compared[e];
      }
    }
    rank[g] = groups.by_top_two ? first + second : first;
  }
  for (int64_t n = 0; n < groups.topk_group; ++n) {
    int64_t best = -1;
    for (int64_t g = 0; g < groups.count; ++g) {
      if (!chosen[g] && (best < 0 || rank[best] < rank[g])) best = g;
    }
    chosen[best] = true;
  }
  for (int64_t e = 0; e < experts; ++e) {
    if (!chosen[e / size]) compared[e] = kMinusInfinity;
  }
}

// The softmax at the largest of `logits` over those that are near it. Those of -infinity were chosen before.
float SoftmaxOfNear(const float* logits, int64_t size, float largest, float distance) {
  float sum = 0.0f;
  for (int64_t e = 0; e < size; ++e) {
    const float magnitude = logits[e] < 0.0f ? -logits[e] : logits[e];
    const float scale = magnitude < largest ? largest : magnitude;
    const bool far = logits[e] == kMinusInfinity || distance < (largest - logits[e]) / scale;
    if (!far) sum += ExpF32(logits[e] - largest);
  }
  return 1.0f / sum;
}

// Turns the scores of the chosen experts, in descending order, into weights.
void WeighChosen(const RouteArgs& args, float* weights) {
  float sum = 0.0f;
  if (args.weighting == RouteWeights::kSoftmax) {
    const float largest = weights[0];
    for (int64_t rank = 0; rank < args.k; ++rank) weights[rank] = ExpF32(weights[rank] - largest);
  }
  for (int64_t rank = 0; rank < args.k; ++rank) sum += weights[rank];
  if (args.weighting == RouteWeights::kRenormalized) sum += args.sum_eps;
  const bool divides =
      args.weighting == RouteWeights::kRenormalized || args.weighting == RouteWeights::kSoftmax;
  for (int64_t rank = 0; rank < args.k; ++rank) {
    if (divides) weights[rank] /= sum;
    if (args.weighting == RouteWeights::kSigmoid) weights[rank] = 1.0f / (1.0f + ExpF32(-weights[rank]));
    weights[rank] *= args.routed_scaling_factor;
  }
}

bool RouteRow(const RouteArgs& args, const float* logits, int32_t* ids, float* weights) {
  const int64_t experts = args.logits.cols;
  float scores[kExpertsMax];
  float compared[kExpertsMax];
  if (!Scores(args, logits, scores)) return false;
  for (int64_t e = 0; e < experts; ++e) {
    compared[e] = args.selection_bias == nullptr ? scores[e] : scores[e] + args.selection_bias[e];
  }
  if (args.groups.count > 1) KeepGroups(args.groups, experts, compared);
  for (int64_t rank = 0; rank < args.k; ++rank) {
    int32_t best = 0;
    for (int32_t e = 1; e < experts; ++e) {
      if (compared[best] < compared[e]) best = e;
    }
    ids[rank] = best;
    weights[rank] = args.weighting == RouteWeights::kSoftmaxOfNear
                        ? SoftmaxOfNear(compared, experts, compared[best], args.near_distance)
                        : scores[best];
    compared[best] = kMinusInfinity;
  }
  WeighChosen(args, weights);
  return true;
}

bool route(const RouteArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    if (!RouteRow(args, args.logits.data + row * args.logits.stride, args.ids.data + row * args.ids.stride,
                  args.weights.data + row * args.weights.stride)) {
      return false;
    }
  }
  return true;
}

bool accumulate_fixed(const AccumulateFixedArgs& args) {
  for (int64_t r = 0; r < args.y.rows; ++r) {
    const float* y = args.y.data + r * args.y.stride;
    int64_t* acc = args.acc.data + args.targets[r] * args.acc.stride;
    for (int64_t c = args.cols.begin; c < args.cols.end; ++c) {
      const float term = args.weights[r] * y[c];
      if (!FixedTermFits(term)) return false;
      acc[c] += FixedFromFloat(term);
    }
  }
  return true;
}

void fixed_to_float(const FixedToFloatArgs& args) {
  for (int64_t row = args.rows.begin; row < args.rows.end; ++row) {
    const int64_t* acc = args.acc.data + row * args.acc.stride;
    float* y = args.y.data + row * args.y.stride;
    for (int64_t c = 0; c < args.acc.cols; ++c) {
      const float value = FloatFromFixed(acc[c]);
      y[c] = args.store == FixedStore::kAdd ? y[c] + value : value;
    }
  }
}

int64_t argmax(const ArgmaxArgs& args) {
  int64_t best = args.size > 0 ? 0 : -1;
  for (int64_t i = 0; i < args.size; ++i) {
    if (args.values[i] != args.values[i]) return -1;
    if (args.values[best] < args.values[i]) best = i;
  }
  return best;
}

constexpr Kernels kTable = {
    .isa = Isa::kReference,
#define SHOAL_KERNEL(result, name, Args) .name = name,
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

}  // namespace

const Kernels& ReferenceKernels() { return kTable; }

}  // namespace shoal
