// AVX2 with FMA3 and F16C: 16 lanes are two registers. Products of quantized weights use vpmaddubsw or vpmaddwd, and
// vpdpbusd on CPUs with AVX-VNNI (lane_affine_ymm.inc): Intel since Alder Lake, AMD since Zen 5. AVX-VNNI-INT8 adds
// nothing: it has the products of other kinds of signs, and unsigned by signed is what ours are.
// Exports Avx2Kernels and AvxVnniKernels, which share all other kernels; all else is local to this file, since it may
// run only on CPUs that have these instructions.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

// ---- 16 lanes of f32, for the lane_*.inc files ----

struct Lanes {
  __m256 lo;
  __m256 hi;
};
struct IntLanes {
  __m256i lo;
  __m256i hi;
};
using Codes = IntLanes;  ///< 64 code bytes: a 4-column block of 16 rows.

constexpr int kFloatTiles = 1;
constexpr int kFloatTokens = 4;
constexpr int kFloatChains = 4;
constexpr int kQueriesAtOnce = 6;
constexpr int kAttentionSums = 6;
constexpr int kKeyQueries = 3;  // Sums take 6, the codes of a block 4, columns of a query 2, a mask 1.
constexpr int kValueQueries = 3;

inline __m256i LaneNumbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
/// All ones in those of 8 lanes that are below n. n may be any number.
inline __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), LaneNumbers());
}

inline Lanes Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Lanes Splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Lanes LoadN(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, FirstLanes(n)), _mm256_maskload_ps(p + 8, FirstLanes(n - 8))};
}
inline void Store(float* p, Lanes v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
inline void StoreN(float* p, Lanes v, int64_t n) {
  _mm256_maskstore_ps(p, FirstLanes(n), v.lo);
  _mm256_maskstore_ps(p + 8, FirstLanes(n - 8), v.hi);
}
inline Lanes Add(Lanes a, Lanes b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Lanes Sub(Lanes a, Lanes b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Lanes Mul(Lanes a, Lanes b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Lanes Div(Lanes a, Lanes b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Lanes Fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Lanes MulSplat(const float* x, Lanes a) { return Mul(Splat(*x), a); }
/// *x * a + c.
inline Lanes FmaSplat(const float* x, Lanes a, Lanes c) { return Fma(Splat(*x), a, c); }
/// a < b ? x : y per lane; y if a or b is NaN.
inline Lanes SelectLess(Lanes a, Lanes b, Lanes x, Lanes y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline Lanes Negate(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}
/// x in lanes [begin, end), y elsewhere.
inline Lanes SelectRange(int64_t begin, int64_t end, Lanes x, Lanes y) {
  const __m256i lo = _mm256_andnot_si256(FirstLanes(begin), FirstLanes(end));
  const __m256i hi = _mm256_andnot_si256(FirstLanes(begin - 8), FirstLanes(end - 8));
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_castsi256_ps(lo)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_castsi256_ps(hi))};
}
inline Lanes AbsBits(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline __m256 MaxBits8(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
inline Lanes MaxBits(Lanes a, Lanes b) { return {MaxBits8(a.lo, b.lo), MaxBits8(a.hi, b.hi)}; }
inline __m256 PowerOfTwo8(__m256 shifted) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)));
}
/// 2^n, from shifted = n + 1.5 * 2^23, by shifting its bits.
inline Lanes PowerOfTwo(Lanes shifted) { return {PowerOfTwo8(shifted.lo), PowerOfTwo8(shifted.hi)}; }
inline uint32_t MaskOf(__m256 lo, __m256 hi) {
  return static_cast<uint32_t>(_mm256_movemask_ps(lo)) | static_cast<uint32_t>(_mm256_movemask_ps(hi)) << 8;
}
/// Bit i is set if lane i of a equals lane i of b.
inline uint32_t EqualMask(Lanes a, Lanes b) {
  return MaskOf(_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ));
}
inline uint32_t UnorderedMask(Lanes a) {
  return MaskOf(_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q));
}

// The defined order of a horizontal sum: lane i + lane i + 8, then + 4, + 2, + 1.
inline float FoldAdd(Lanes v) {
  const __m256 eight = _mm256_add_ps(v.lo, v.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float FoldMax(Lanes v) {
  const __m256 eight = _mm256_max_ps(v.lo, v.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/// Folds up to eight vectors at once: lane q of the result folds v[q], q < n <= 8, by 8, 4, 2, 1 as FoldAdd
/// does.
template <int n, typename Op>
inline Lanes FoldEach(const Lanes* v, Op op) {
  const auto eight = [&](int q) { return op(v[q < n ? q : 0].lo, v[q < n ? q : 0].hi); };
  const auto halves = [&](__m256 a, __m256 b) {  // 128-bit lanes: a, b.
    return op(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  };
  const auto twos = [&](__m256 ab, __m256 cd) {  // a, a, c, c, b, b, d, d.
    return op(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  };
  const __m256 abcd = twos(halves(eight(0), eight(1)), halves(eight(2), eight(3)));
  const __m256 efgh = n <= 4 ? abcd : twos(halves(eight(4), eight(5)), halves(eight(6), eight(7)));
  const __m256 ones = op(_mm256_shuffle_ps(abcd, efgh, 0x88), _mm256_shuffle_ps(abcd, efgh, 0xdd));
  return {_mm256_permutevar8x32_ps(ones, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)), _mm256_setzero_ps()};
}
template <int n>
inline Lanes FoldAddEach(const Lanes* v) {
  return FoldEach<n>(v, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}
template <int n>
inline Lanes FoldMaxEach(const Lanes* v) {
  return FoldEach<n>(v, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); });
}

// ---- Integers ----

inline IntLanes IntZero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline IntLanes IntSplat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Lanes ToFloat(IntLanes v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
inline IntLanes RoundToInt(Lanes v) { return {_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi)}; }
inline IntLanes IntAdd(IntLanes a, IntLanes b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
inline int32_t IntFoldAdd(IntLanes v) {
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(v.lo, v.hi));
  int32_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}
inline void StoreInt8(int8_t* p, IntLanes v) {
  // Packing works within 128-bit halves; the permutation restores the order of the four groups of four.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.lo, v.hi), 0b11011000);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// ---- 16-bit floats ----

inline __m256 FromHalf(__m128i bits, DType dtype) {
  if (dtype == DType::kF16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
/// Elements [index, index + 16) of f32, f16 or bf16.
inline Lanes LoadElements(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return Load(static_cast<const float*>(data) + index);
  const auto* halves = reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(data) + index);
  return {FromHalf(_mm_loadu_si128(halves), dtype), FromHalf(_mm_loadu_si128(halves + 1), dtype)};
}
inline Lanes LoadElementsN(const void* data, DType dtype, int64_t index, int64_t n) {
  if (dtype == DType::kF32) return LoadN(static_cast<const float*>(data) + index, n);
  uint16_t halves[16] = {};
  std::memcpy(halves, static_cast<const uint16_t*>(data) + index, static_cast<size_t>(n) * sizeof(uint16_t));
  return LoadElements(halves, dtype, 0);
}
inline __m128i RoundToHalf(__m256 v, DType dtype) {
  if (dtype == DType::kF16) {
    // min and max return their second operand if the first is NaN.
    const __m256 clamped =
        _mm256_max_ps(_mm256_set1_ps(-65504.0f), _mm256_min_ps(_mm256_set1_ps(65504.0f), v));
    return _mm256_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  const __m256i word = _mm256_castps_si256(v);
  const __m256i high = _mm256_srli_epi32(word, 16);
  const __m256i bias =
      _mm256_add_epi32(_mm256_and_si256(high, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(word, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i bits = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}
/// Rounds to f16 (saturating) or bf16 as numeric/dtype.h does.
inline void StoreHalves(uint16_t* p, DType dtype, Lanes v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), RoundToHalf(v.lo, dtype));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), RoundToHalf(v.hi, dtype));
}

// ---- Fixed point ----

// Four terms below 2^11 in magnitude. The bits of x + 1.5 * 2^52 grow by one per unit of x, so subtracting
// the bits of 1.5 * 2^52 gives the integer.
inline void AddFixed4(int64_t* acc, __m128 term) {
  const __m256d magic = _mm256_set1_pd(0x1.8p52);
  const __m256d scaled = _mm256_mul_pd(_mm256_cvtps_pd(term), _mm256_set1_pd(0x1p40));
  const __m256i integer =
      _mm256_sub_epi64(_mm256_castpd_si256(_mm256_add_pd(scaled, magic)), _mm256_castpd_si256(magic));
  auto* at = reinterpret_cast<__m256i*>(acc);
  _mm256_storeu_si256(at, _mm256_add_epi64(_mm256_loadu_si256(at), integer));
}
/// acc[0, 16) += round_to_even(term * 2^40). False if a term does not fit.
inline bool AddFixed(int64_t* acc, Lanes term) {
  const Lanes magnitude = AbsBits(term);
  const __m256 small = _mm256_set1_ps(0x1p11f);
  if (MaskOf(_mm256_cmp_ps(magnitude.lo, small, _CMP_LT_OQ),
             _mm256_cmp_ps(magnitude.hi, small, _CMP_LT_OQ)) == 0xffff) {
    AddFixed4(acc, _mm256_castps256_ps128(term.lo));
    AddFixed4(acc + 4, _mm256_extractf128_ps(term.lo, 1));
    AddFixed4(acc + 8, _mm256_castps256_ps128(term.hi));
    AddFixed4(acc + 12, _mm256_extractf128_ps(term.hi, 1));
    return true;
  }
  alignas(32) float terms[16];
  Store(terms, term);
  for (int i = 0; i < 16; ++i) {
    if (!FixedTermFits(terms[i])) return false;
    acc[i] += FixedFromFloat(terms[i]);
  }
  return true;
}
inline Lanes FromFixed(const int64_t* acc) {
  alignas(32) float values[16];
  for (int i = 0; i < 16; ++i) values[i] = FloatFromFixed(acc[i]);
  return Load(values);
}

// ---- Codes ----

inline Codes LoadCodes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
template <int kShift>
inline Codes ShiftRight(Codes v) {
  return {_mm256_srli_epi16(v.lo, kShift), _mm256_srli_epi16(v.hi, kShift)};
}
template <int kShift>
inline Codes ShiftLeft(Codes v) {
  return {_mm256_slli_epi16(v.lo, kShift), _mm256_slli_epi16(v.hi, kShift)};
}
inline Codes And(Codes v, uint8_t mask) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(v.lo, m), _mm256_and_si256(v.hi, m)};
}
inline Codes Or(Codes a, Codes b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline __m256 CodeColumn8(__m256i block, int column) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(block, 8 * column), _mm256_set1_epi32(0xff)));
}
/// Column `column` of a 4-column block, as f32 lanes.
inline Lanes CodeColumn(Codes block, int column) {
  return {CodeColumn8(block.lo, column), CodeColumn8(block.hi, column)};
}

#include "kernels/lane_codes.inc"
#include "kernels/lane_math.inc"

/// How codes are multiplied.
enum class Dot {
  kPairs,  ///< AVX2: vpmaddubsw adds two products in 16 bits and saturates; vpmaddwd adds two of 16 bits in 32.
  kFours,  ///< AVX-VNNI: vpdpbusd adds four products in 32 bits, exactly.
};

/// 32 factors of a panel of int8 keys or values, of at most 15 bits, as pairs of 16: of each four the even and the odd ones.
/// A row meets so many panels that widening it once pays.
struct FactorRow {
  int32_t pairs[8][2];
};
using QueryRow = FactorRow;
using WeightRow = FactorRow;
inline void StoreWeightRow(IntLanes first, IntLanes second, WeightRow* row) {
  const auto store = [](__m256i v, int32_t(*pairs)[2]) {
    const __m256i next = _mm256_slli_epi32(_mm256_shuffle_epi32(v, 0b1110), 16);
    const __m256i mixed =
        _mm256_blend_epi16(v, next, 0xaa);  // Of each four the pairs (0, 2) and (1, 3), then others.
    _mm_storel_epi64(reinterpret_cast<__m128i*>(pairs[0]), _mm256_castsi256_si128(mixed));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(pairs[1]), _mm256_extracti128_si256(mixed, 1));
  };
  store(first.lo, row->pairs);
  store(first.hi, row->pairs + 2);
  store(second.lo, row->pairs + 4);
  store(second.hi, row->pairs + 6);
}
inline void StoreQueryRow(const int8_t* codes, QueryRow* row) {
  for (int block = 0; block < 8; ++block) {
    const int8_t* const four = codes + 4 * block;
    const int16_t pairs[4] = {four[0], four[2], four[1], four[3]};
    std::memcpy(row->pairs[block], pairs, sizeof(pairs));
  }
}

/// dots[0][q] += the products of a panel's unsigned codes with rows[q].
template <int kRows>
inline void DotKeys(const uint8_t* panel, const FactorRow* const* rows, IntLanes (*dots)[kRows]) {
#pragma GCC unroll 8
  for (int block = 0; block < 8; ++block) {
    const Codes codes = LoadCodes(panel + 64 * block);
    const __m256i low_byte = _mm256_set1_epi16(0xff);
    const Codes even = {_mm256_and_si256(codes.lo, low_byte), _mm256_and_si256(codes.hi, low_byte)};
    const Codes odd = {_mm256_srli_epi16(codes.lo, 8), _mm256_srli_epi16(codes.hi, 8)};
#pragma GCC unroll 16
    for (int q = 0; q < kRows; ++q) {
      const __m256i x_even = _mm256_set1_epi32(rows[q]->pairs[block][0]);
      const __m256i x_odd = _mm256_set1_epi32(rows[q]->pairs[block][1]);
      IntLanes& sums = dots[0][q];
      sums.lo = _mm256_add_epi32(sums.lo, _mm256_madd_epi16(even.lo, x_even));
      sums.hi = _mm256_add_epi32(sums.hi, _mm256_madd_epi16(even.hi, x_even));
      sums.lo = _mm256_add_epi32(sums.lo, _mm256_madd_epi16(odd.lo, x_odd));
      sums.hi = _mm256_add_epi32(sums.hi, _mm256_madd_epi16(odd.hi, x_odd));
    }
  }
}
template <int kRows>
inline void DotValues(const uint8_t* panel, const WeightRow* const* rows, IntLanes (*dots)[kRows]) {
  DotKeys<kRows>(panel, rows, dots);
}

#include "kernels/lane_affine_ymm.inc"
#include "kernels/lane_attention.inc"
#include "kernels/lane_index.inc"
#include "kernels/lane_kernels.inc"
#include "kernels/lane_matmul.inc"
#include "kernels/lane_recurrent.inc"

constexpr Kernels kTable = {
    .isa = Isa::kAvx2,
#define SHOAL_KERNEL(result, name, Args) .name = name,
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

}  // namespace

const Kernels& Avx2Kernels() { return kTable; }

const Kernels& AvxVnniKernels() {
  static const Kernels table = [] {
    Kernels kernels = kTable;
    kernels.isa = Isa::kAvxVnni;
    kernels.matmul_affine = matmul_affine_vnni;
    return kernels;
  }();
  return table;
}

}  // namespace shoal
