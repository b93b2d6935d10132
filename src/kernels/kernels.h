// The arithmetic of a step, as one table of plain functions per instruction set. All tables give the same
// bits.
//
// A kernel computes the range of its output that its Args name, and knows nothing of threads: the caller cuts
// the ranges (ThreadPool::run_ranges), and no cut changes a bit. Kernels do not allocate, and only those that return
// false can fail. The caller guarantees shapes. Matrices are row-major with a stride in elements.
// Notation: T tokens, D model width, K input columns, N output rows, G group, H heads, E experts.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/range.h"
#include "kernels/packed.h"
#include "numeric/cache_shape.h"
#include "numeric/dtype.h"
#include "numeric/operation_kinds.h"
#include "numeric/view.h"

namespace shoal {

// ---- Quantized activations --------------------------------------------------------------------------------

/// Activations as int8 with one scale per (row, group): x[t, k] is about scales[t, k / group] * codes[t, k].
struct QuantizedRows {
  int8_t* codes = nullptr;  ///< [rows, cols], in [-127, 127].
  float* scales = nullptr;  ///< [rows, cols / group].
  float* sums = nullptr;    ///< [rows, cols / group]: round(scale * sum of the group's codes).
  int64_t rows = 0;
  int64_t cols = 0;
  int group = 0;

  int64_t groups() const { return cols / group; }
  QuantizedRows rows_between(Range range) const;
};

/// Bytes that QuantizedRowsIn needs.
int64_t QuantizedRowsBytes(int64_t rows, int64_t cols, int group);
/// Places the three arrays in `memory`: scratch of the step, 64-byte aligned, QuantizedRowsBytes long.
QuantizedRows QuantizedRowsIn(void* memory, int64_t rows, int64_t cols, int group);

/// scale = absmax / 127; codes = round_to_even(x * (127 / absmax)). absmax < 127 * 2^-126 gives scale 0 and
/// codes 0. Returns false at the first row of the range that holds a NaN or an infinity; the rows before it
/// are written.
struct QuantizeRowsArgs {
  MatView<const float> x;  ///< [T, K], K a multiple of out.group.
  QuantizedRows out;       ///< [T, K]
  Range rows;
};

// ---- Matrix products --------------------------------------------------------------------------------------

/// y[t, n] = sum over k of x[t, k] * w[n, k], for n in 16 * [tiles.begin, tiles.end).
/// Each element is one chain over ascending groups, where dot is the exact sum of a group's code products:
///   p = scale_w * scale_x;  acc = fma(float(dot), p, acc);  acc = fma(bias_w, sums_x, acc).
struct MatmulAffineArgs {
  QuantizedRows x;   ///< [T, K], quantized with the group of w.
  PackedView w;      ///< [N, K] affine.
  MatView<float> y;  ///< [T, N]
  Range tiles;
};

/// The same product for f32 activations and any packed weights: acc = fma(w[n, k], x[t, k], acc) over each 256 columns,
/// and these sums added up, all ascending (tables.h). An affine weight is round(round(scale * code) + bias).
struct MatmulFloatArgs {
  MatView<const float> x;  ///< [T, K]
  PackedView w;            ///< [N, K]
  MatView<float> y;        ///< [T, N]
  Range tiles;
};

// ---- Rows -------------------------------------------------------------------------------------------------

/// y = x * (1 / sqrt(mean(x^2) + eps)) * weight, per row. The sum of squares is 16 lanes (k mod 16), each an
/// FMA chain over ascending k, folded by 8, 4, 2, 1. y may be x. A norm of heads has cols = head_dim and one
/// row per head.
struct RmsNormArgs {
  MatView<const float> x;
  const float* weight = nullptr;  ///< [cols]
  float eps = 0;
  MatView<float> y;
  Range rows;
};

/// Layer norm: y = (x - mean) * (1 / sqrt(mean((x - mean)^2) + eps)) * weight + bias, per row. Both sums are 16 lanes
/// (k mod 16) over ascending k, that of squares an FMA chain each, folded by 8, 4, 2, 1. y may be x.
/// Source: Ba et al. 2016, arXiv:1607.06450.
struct LayerNormArgs {
  MatView<const float> x;
  const float* weight = nullptr;  ///< [cols]
  const float* bias = nullptr;    ///< [cols] or nullptr: none.
  float eps = 0;
  MatView<float> y;
  Range rows;
};

/// y += x, or with scales y[r, :] += round(scales[r] * x[r, :]).
struct AddRowsArgs {
  MatView<const float> x;
  const float* scales = nullptr;  ///< [rows of x] or nullptr.
  MatView<float> y;
  Range rows;
};

/// y[r, :] += bias.
struct AddBiasArgs {
  const float* bias = nullptr;  ///< [cols]
  MatView<float> y;
  Range rows;
};

/// Rotates the first `rotary` elements of every head in place: (a, b) -> (a cos - b sin, b cos + a sin), as
/// fma(a, cos, -(b * sin)) and fma(b, cos, a * sin).
struct RopeArgs {
  MatView<float> x;  ///< [T, heads * head_dim]
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rotary = 0;           ///< Even, <= head_dim.
  MatView<const float> cosine;  ///< [T, rotary / 2], for each row's position (numeric/rope_table.h).
  MatView<const float> sine;    ///< [T, rotary / 2]
  RopePairing pairing = RopePairing::kHalfSplit;
  Range rows;
};

/// out = gate / (1 + exp(-gate)) * up. out may be gate or up.
struct SiluMulArgs {
  MatView<const float> gate;
  MatView<const float> up;
  MatView<float> out;
  Range rows;
};

/// out = gelu(gate) * up, with gelu(x) = x / (1 + exp(x * fma(x * x, c2, c1))), c1 = -2 sqrt(2 / pi),
/// c2 = 0.044715 c1: the "tanh" form of the Gaussian error linear unit. out may be gate or up.
struct GeluMulArgs {
  MatView<const float> gate;
  MatView<const float> up;
  MatView<float> out;
  Range rows;
};

/// With g = min(gate, limit) and u = up clamped to [-limit, limit]: out = g / (1 + exp(-1.702 g)) * (u + 1).
/// out may be gate or up. Source: OpenAI's gpt-oss.
struct ClampedSwigluArgs {
  MatView<const float> gate;
  MatView<const float> up;
  float limit = 0;
  MatView<float> out;
  Range rows;
};

/// With s = silu(gate): out = min(s, limit) * (up clamped to [-limit, limit]). out may be gate or up.
/// Source: StepFun's Step 3.5.
struct ClampedSiluMulArgs {
  MatView<const float> gate;
  MatView<const float> up;
  float limit = 0;
  MatView<float> out;
  Range rows;
};

/// out = activation(x). out may be x. gelu(x) as in gelu_mul.
struct ActivateArgs {
  MatView<const float> x;
  Activation activation = Activation::kGelu;
  XieluShape xielu;  ///< Of kXielu.
  MatView<float> out;
  Range rows;
};

/// out = up / (1 + exp(-gate)). out may be gate or up.
struct SigmoidMulArgs {
  MatView<const float> gate;
  MatView<const float> up;
  MatView<float> out;
  Range rows;
};

// ---- Recurrent layers -------------------------------------------------------------------------------------

/// out[t, c] = silu(bias[c] + sum over j < width of weight[j, c] * x[t - (width - 1) + j, c]) for c in cols. The
/// sum is one chain over ascending j that begins with the bias; silu as in silu_mul. Rows of x with a negative index
/// are the last rows of `before`.
struct CausalConvArgs {
  MatView<const float> x;         ///< [T, C]
  MatView<const float> before;    ///< [width - 1, C]: the rows just before x.
  const float* weight = nullptr;  ///< [width, C]
  const float* bias = nullptr;    ///< [C] or nullptr: none.
  ConvActivation activation = ConvActivation::kSilu;
  MatView<float> out;  ///< [T, C], not x.
  Range cols;
};

/// The gated delta rule for one head, over consecutive rows of a sequence. For each row t:
///   s[i, j]      = decay[t, i] * state[i, j], rounded
///   memory[j]    = sum over i of key[t, i] * s[i, j]
///   delta[j]     = (value[t, j] - memory[j]) * beta[t], of StateRule::kAdd value[t, j] * beta[t]
///   state[i, j]  = fma(key[t, i], delta[j], s[i, j])
///   out[t, j]    = sum over i of query[t, i] * state[i, j]
/// Each sum is one chain over ascending i. Rows are computed one by one, so the result does not depend on how
/// rows are cut into calls.
/// Source: Yang et al. 2024, arXiv:2412.06464, eq. 10; decays per key channel: Kimi Team 2025, arXiv:2510.26692, eq. 1;
/// StateRule::kAdd: Dao, Gu 2024, arXiv:2405.21060, eq. 1.
struct DeltaRuleArgs {
  MatView<const float> query;       ///< [T, I]
  MatView<const float> key;         ///< [T, I]
  MatView<const float> value;       ///< [T, J]
  MatView<const float> decay;       ///< [T, I], or [T, 1]: the same for all i.
  MatView<const float> beta;        ///< [T, 1]
  const float* state_in = nullptr;  ///< [I, J] before the first row.
  float* state_out = nullptr;       ///< [I, J] after the last row. May be state_in.
  MatView<float> out;               ///< [T, J], not value.
  StateRule rule = StateRule::kDelta;
};

/// The selective scan of Mamba 1 over consecutive rows of a sequence, for channels c in cols. For each row t:
///   state[n, c]  = fma(key[t, n], round(step[t, c] * x[t, c]), round(exp(step[t, c] * rate[n, c]) * state[n, c]))
///   out[t, c]    = fma(skip[c], x[t, c], sum over n of query[t, n] * state[n, c])
/// The sum is one chain over ascending n; exp is that of silu_mul. Rows are computed one by one, so the result does not
/// depend on how rows are cut into calls. At least one row.
/// Source: Gu, Dao 2023, arXiv:2312.00752, algorithm 2, whose B and C are key and query.
struct SelectiveScanArgs {
  MatView<const float> x;           ///< [T, C]
  MatView<const float> step;        ///< [T, C]
  MatView<const float> key;         ///< [T, N]
  MatView<const float> query;       ///< [T, N]
  const float* rate = nullptr;      ///< [N, C]
  const float* skip = nullptr;      ///< [C]
  const float* state_in = nullptr;  ///< [N, C] before the first row.
  float* state_out = nullptr;       ///< [N, C] after the last row. May be state_in.
  MatView<float> out;               ///< [T, C], may be x or step.
  Range cols;
};

// ---- Attention --------------------------------------------------------------------------------------------

/// Positions of a split, for which attention computes one partial result. Splits begin at multiples of this.
inline constexpr int64_t kAttentionSplitPositions = 512;
/// The cache of one layer. head_dim <= kHeadDimMax. In a block:
///   keys    [kv_heads][head_dim][32]: a lane is a position, so scores need no horizontal sum.
///   values  [kv_heads][32][head_dim].
/// Of DType::kI8 a head's part of a block is, with C = KvKeyColumns(head_dim) and G = KvGroups(head_dim),
///   keys    [C / 32][2][8][16][4] codes plus 128, as u8: panels of 32 columns of 16 positions, as packed.h has 8-bit
///           weights, so that the same dot products serve; then [G][32] scales, bf16. Columns from head_dim on are 0.
///   values  [C / 16][8][16][4] codes plus 128, as u8: panels of 32 positions of 16 columns; then [G][32] scales, bf16.
struct KvLayerView {
  std::byte* keys = nullptr;    ///< Block i at keys + i * block_stride.
  std::byte* values = nullptr;  ///< Block i at values + i * block_stride.
  int64_t block_stride = 0;     ///< Bytes from one block to the next, for keys and for values.
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::kF16;  ///< f32, f16, bf16, or kI8: codes with scales.
};

/// Byte of a head's int8 keys that has column `column` of the position at `index` of the block.
constexpr int64_t KvKeyCodeAt(int64_t column, int64_t index) {
  return column / 32 * 1024 + index / 16 * 512 + column % 32 / 4 * 64 + index % 16 * 4 + column % 4;
}

/// The same of a head's int8 values.
constexpr int64_t KvValueCodeAt(int64_t column, int64_t index) {
  return column / 16 * 512 + index / 4 * 64 + column % 16 * 4 + index % 4;
}
/// The largest code of a position's weight: 127 times 128 is two int8.
inline constexpr float kKvWeightMax = 127 * 128;

/// Bytes of the keys (or of the values) of one block.
int64_t KvBlockBytes(int64_t kv_heads, int64_t head_dim, DType dtype);

/// Writes the key and value rows of one position into its block, rounded to the cache's dtype; without values the
/// keys alone. f16 saturates at +-65504. Returns the number of elements that saturated.
/// Of DType::kI8, 64 dimensions (the last group may have fewer) are rounded together: scale = absmax / 127, rounded up to
/// bf16, codes = round_to_even(x * (1 / scale)). absmax < 127 * 2^-126 gives scale 0 and codes 0, a NaN or an infinity
/// among them scale NaN and codes 0; nothing saturates. There are always values then.
struct AppendKvArgs {
  KvLayerView cache;
  BlockId block;
  int64_t position = 0;          ///< Written at index position mod 32 of the block.
  const float* key = nullptr;    ///< [kv_heads, head_dim]
  const float* value = nullptr;  ///< [kv_heads, head_dim], or nullptr: the cache has keys only.
  Range kv_heads;
};

/// One query row.
struct AttentionRow {
  const float* query = nullptr;  ///< [kv_heads * group, head_dim]
  float* out = nullptr;          ///< [kv_heads * group, head_dim]
  /// blocks[b] holds positions [32 b, 32 b + 32). Entries before positions.begin / 32 are not read.
  const BlockId* blocks = nullptr;
  /// The visible positions, not empty: [0, p] for a full cache, the last ones of [0, p] for a window.
  Range positions;
};

/// out = softmax(scale * q . k) v over the visible positions, for the query heads of kv_heads.
/// A score is one FMA chain over ascending d, times scale; where softcap > 0, softcap * tanh(that / softcap). The
/// softmax is online, block by block. The partial results of splits (512 positions at absolute boundaries) are
/// merged in ascending order, whichever thread computed them. A sink is a head's score without a value; it is
/// merged before all positions.
/// Of a cache of DType::kI8, the query is rounded as quantize_rows does, in groups of 64 dimensions (a NaN or an infinity
/// gives scale NaN and codes 0). A score is then a chain over ascending groups, where dot is the exact sum of a group's
/// code products: acc = fma(float(dot), round(scale_k * scale_q), acc). For values, the weights round(p * scale_v) of a
/// block's visible positions are rounded to 15 bits for each group of dimensions: s = absmax / 16256, codes =
/// round_to_even(weight * (16256 / absmax)), both 0 where absmax < 16256 * 2^-126; a NaN gives s NaN and codes 0. Then
/// v[d] = fma(float(dot), s, v[d]) with the exact sum of code products, after the running value was corrected.
struct AttentionArgs {
  KvLayerView cache;
  int64_t group = 1;  ///< Query heads per kv head.
  float scale = 0;
  float softcap = 0;             ///< Of scores; 0: none.
  const float* sinks = nullptr;  ///< [kv_heads * group] or nullptr: none.
  const AttentionRow* rows = nullptr;
  Range row_range;
  Range kv_heads;
};

/// The splits that hold `positions`.
constexpr Range AttentionSplits(Range positions) {
  return {positions.begin / kAttentionSplitPositions,
          (positions.end + kAttentionSplitPositions - 1) / kAttentionSplitPositions};
}

/// Floats of one partial result: running maximum, sum, padding to a cache line, then head_dim weighted
/// values.
constexpr int64_t AttentionPartialFloats(int64_t head_dim) { return head_dim + 16; }

/// Attention of a single row over a long context, one split at a time, so that threads can share the splits.
/// attention_merge turns the partial results into the bits of `attention`. The partial result of split s and
/// query head h begins at float
///   ((s - AttentionSplits(positions).begin) * kv_heads * group + h) * AttentionPartialFloats(head_dim).
struct AttentionPartialArgs {
  KvLayerView cache;
  int64_t group = 1;
  float scale = 0;
  float softcap = 0;
  AttentionRow row;  ///< row.out is not written.
  Range splits;      ///< Within AttentionSplits(row.positions).
  Range kv_heads;
  float* partials = nullptr;
};

/// Merges the partial results of attention_partial, for the heads of head_range.
struct AttentionMergeArgs {
  const float* partials = nullptr;  ///< [splits, heads, AttentionPartialFloats(head_dim)]
  int64_t splits = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  const float* sinks = nullptr;  ///< [heads] or nullptr, as in AttentionArgs.
  float* out = nullptr;          ///< [heads, head_dim]
  Range head_range;
};

/// Compares the heads of one query row with the keys of positions, for what picks the positions to attend to. With
/// dot[h, p] = query[h] . key[p], one FMA chain over ascending d,
///   scores[0, p] = sum over h of weights[h] * max(dot[h, p], 0), one FMA chain over ascending h from 0, or
///   scores[h, p] = dot[h, p] where there are no weights.
/// Source: DeepSeek-AI 2025, DeepSeek-V3.2-Exp, eq. 1.
struct IndexScoresArgs {
  KvLayerView keys;                 ///< Of one kv head; its values are not read.
  const BlockId* blocks = nullptr;  ///< blocks[b] holds positions [32 b, 32 b + 32).
  const float* query = nullptr;     ///< [heads, head_dim]
  int64_t heads = 0;
  const float* weights = nullptr;  ///< [heads] or nullptr: each head's scores are kept apart.
  Range positions;                 ///< Begins at a multiple of 32.
  MatView<float> scores;           ///< [1 or heads, P], of which the columns `positions` are written.
};

// ---- Experts ----------------------------------------------------------------------------------------------

/// Chooses the k experts with the largest score plus selection bias, in descending order, ties to the lowest
/// id. Weights come from the scores without selection bias, times routed_scaling_factor. Returns false if a
/// row of the range holds a NaN or an infinity.
struct RouteArgs {
  MatView<const float> logits;  ///< [T, E], 1 <= E <= kExpertsMax.
  int64_t k = 0;                ///< 1 <= k <= E.
  RouteScores scores = RouteScores::kSoftmax;
  const float* selection_bias = nullptr;  ///< [E] or nullptr: added to the scores for the choice only.
  RouteGroups groups;
  RouteWeights weighting = RouteWeights::kRenormalized;
  /// Of kSoftmaxOfNear: an expert of logit s is near one of logit t > s if (t - s) / max(|s|, t) is no more.
  float near_distance = 0;
  float sum_eps = 1e-20f;  ///< Of kRenormalized.
  float routed_scaling_factor = 1;
  MatView<int32_t> ids;    ///< [T, k]
  MatView<float> weights;  ///< [T, k]
  Range rows;
};

/// acc[targets[r], c] += round_to_even(round(weights[r] * y[r, c]) * 2^40) for c in cols
/// (numeric/fixed_sum.h). Different cols may run in parallel. Returns false, with acc undefined, if a term is
/// NaN or >= 2^18 in magnitude.
struct AccumulateFixedArgs {
  MatView<const float> y;            ///< [R, D]
  const float* weights = nullptr;    ///< [R]
  const int32_t* targets = nullptr;  ///< [R], rows of acc.
  MatView<int64_t> acc;              ///< [T, D]
  Range cols;
};

enum class FixedStore : uint8_t { kAssign, kAdd };

/// y = acc * 2^-40 or y += acc * 2^-40; the product is rounded once.
struct FixedToFloatArgs {
  MatView<const int64_t> acc;  ///< [T, D]
  MatView<float> y;            ///< [T, D]
  FixedStore store = FixedStore::kAdd;
  Range rows;
};

/// Returns the index of the largest value, ties to the lowest; -1 if any value is NaN.
struct ArgmaxArgs {
  const float* values = nullptr;
  int64_t size = 0;
};

// ---- Tables of instruction sets ---------------------------------------------------------------------------

enum class Isa : uint8_t { kReference, kAvx2, kAvxVnni, kAvx512, kAmx, kNeon, kNeonDotprod, kNeonI8mm };

/// The kernels of one instruction set.
struct Kernels {
  Isa isa;
#define SHOAL_KERNEL(result, name, Args) result (*name)(const Args&);
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

/// "reference", "avx2", "avx-vnni", "avx512", "amx", "neon", "neon-dotprod", "neon-i8mm".
std::string_view IsaName(Isa isa);

/// The instruction sets that this build and this machine can run, in the order of the enum; the last is the
/// fastest. Empty on an x86 CPU without FMA3, which shoal requires (docs/numerics.md).
std::vector<Isa> SupportedIsas();

/// The instruction set named `forced`, or the fastest if it is "". Returns InvalidArgument for an unknown
/// name, FailedPrecondition for a set that this machine cannot run, and for "" on an x86 CPU that has, or a virtual
/// machine that shows, less than AVX2: the reference would be many times too slow, and is used only where it is asked
/// for.
absl::StatusOr<Isa> ChooseIsa(std::string_view forced);

/// The table of a supported instruction set.
const Kernels& SelectKernels(Isa isa);

}  // namespace shoal
