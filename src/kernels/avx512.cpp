// AVX-512 with VNNI: 16 lanes are one register, four code products and their sum are one instruction
// (vpdpbusd, exact). Exports Avx512Kernels alone; everything else is local to this file, as it may run only
// where the CPU allows it.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

// ---- 16 lanes of f32: the vocabulary of lane_kernels.inc
// -----------------------------------------------------------

using Lanes = __m512;
using IntLanes = __m512i;
using Codes = __m512i;  ///< 64 code bytes: a quad of 16 rows.

// Registers: a matmul block of 2 tiles x 6 tokens keeps 12 integer and 12 float sums live; 8 of 32 are left
// for weights, scales and a row's codes.
constexpr int kAffineTiles = 2;
constexpr int kAffineTokens = 6;
constexpr int kFloatTiles = 2;
constexpr int kFloatTokens = 8;
constexpr int kQueriesAtOnce = 8;
constexpr int kAttentionSums = 16;

inline __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline Lanes Zero() { return _mm512_setzero_ps(); }
inline Lanes Splat(float x) { return _mm512_set1_ps(x); }
inline Lanes Load(const float* p) { return _mm512_loadu_ps(p); }
inline Lanes LoadPart(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void Store(float* p, Lanes v) { _mm512_storeu_ps(p, v); }
inline void StorePart(float* p, Lanes v, int64_t n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
inline Lanes Add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes Sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes Mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes Div(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
inline Lanes Fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes MulSplat(const float* x, Lanes a) {
  Lanes product;
  asm("vmulps %1%{1to16%}, %2, %0" : "=v"(product) : "m"(*x), "v"(a));
  return product;
}
/// *x * a + c. In assembly, as compilers load a broadcast once for several uses: on Zen 4 that load takes a
/// slot of the multiply-add pipes, which an operand broadcast from memory does not (4 queries against f16
/// keys: 80 % of the peak against 99 %).
inline Lanes FmaSplat(const float* x, Lanes a, Lanes c) {
  asm("vfmadd231ps %1%{1to16%}, %2, %0" : "+v"(c) : "m"(*x), "v"(a));
  return c;
}
/// a < b ? x : y, so y where a NaN is compared.
inline Lanes SelectLess(Lanes a, Lanes b, Lanes x, Lanes y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
inline Lanes Negate(Lanes a) {
  return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
/// x in lanes [begin, end), y elsewhere.
inline Lanes SelectRange(int64_t begin, int64_t end, Lanes x, Lanes y) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(FirstLanes(end) & ~FirstLanes(begin)), y, x);
}
inline Lanes AbsBits(Lanes a) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MAX)));
}
inline Lanes MaxBits(Lanes a, Lanes b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
/// Shifts the bits of n + 1.5 * 2^23 into a power of two: 2^n.
inline Lanes PowerOfTwo(Lanes shifted) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}
/// Bit i set where lane i of a equals that of b.
inline uint32_t EqualMask(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline uint32_t UnorderedMask(Lanes a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }

// The written sum: lane i + lane i + 8, then + 4, + 2, + 1.
inline float FoldAdd(Lanes v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float FoldMax(Lanes v) { return _mm512_reduce_max_ps(v); }

/// Eight folds at once: lane q of the result folds v[q], q < n <= 8, by 8, 4, 2, 1 as FoldAdd does; three
/// shuffles a step for two vectors, where folding each alone takes two for one.
template <int n, typename Op>
inline Lanes FoldEach(const Lanes* v, Op op) {
  const auto at = [&](int q) { return v[q < n ? q : 0]; };
  const auto halves = [&](Lanes a, Lanes b) {  // 128-bit parts: a, a, b, b.
    return op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  };
  const auto quarters = [&](Lanes ab, Lanes cd) {  // a, b, c, d.
    return op(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  };
  const Lanes abcd = quarters(halves(at(0), at(1)), halves(at(2), at(3)));
  const Lanes efgh = n <= 4 ? abcd : quarters(halves(at(4), at(5)), halves(at(6), at(7)));
  const Lanes twos = op(_mm512_shuffle_ps(abcd, efgh, 0x44), _mm512_shuffle_ps(abcd, efgh, 0xee));
  const Lanes ones = op(_mm512_shuffle_ps(twos, twos, 0x88), _mm512_shuffle_ps(twos, twos, 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 4, 8, 12, 1, 5, 9, 13);
  return _mm512_permutexvar_ps(order, ones);
}
template <int n>
inline Lanes FoldAddEach(const Lanes* v) {
  return FoldEach<n>(v, [](Lanes a, Lanes b) { return _mm512_add_ps(a, b); });
}
template <int n>
inline Lanes FoldMaxEach(const Lanes* v) {
  return FoldEach<n>(v, [](Lanes a, Lanes b) { return _mm512_max_ps(a, b); });
}

// ---- Integers ----

inline IntLanes IntZero() { return _mm512_setzero_si512(); }
inline Lanes ToFloat(IntLanes v) { return _mm512_cvtepi32_ps(v); }
inline IntLanes RoundToInt(Lanes v) { return _mm512_cvtps_epi32(v); }
inline IntLanes IntAdd(IntLanes a, IntLanes b) { return _mm512_add_epi32(a, b); }
inline int32_t IntFoldAdd(IntLanes v) { return _mm512_reduce_add_epi32(v); }
inline void StoreInt8(int8_t* p, IntLanes v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}

// ---- 16-bit floats ----

inline Lanes FromHalf(__m256i bits, DType dtype) {
  if (dtype == DType::kF16) return _mm512_cvtph_ps(bits);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
/// Elements [index, index + 16) of f32, f16 or bf16.
inline Lanes LoadElements(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return Load(static_cast<const float*>(data) + index);
  const auto* halves = static_cast<const uint16_t*>(data) + index;
  return FromHalf(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)), dtype);
}
inline Lanes LoadElementsPart(const void* data, DType dtype, int64_t index, int64_t n) {
  if (dtype == DType::kF32) return LoadPart(static_cast<const float*>(data) + index, n);
  return FromHalf(_mm256_maskz_loadu_epi16(FirstLanes(n), static_cast<const uint16_t*>(data) + index), dtype);
}
/// Rounds to f16 (saturating) or bf16 as numeric/dtype.h does.
inline void StoreHalves(uint16_t* p, DType dtype, Lanes v) {
  __m256i bits;
  if (dtype == DType::kF16) {
    // min and max give their second operand where the first is NaN.
    const Lanes clamped = _mm512_max_ps(Splat(-65504.0f), _mm512_min_ps(Splat(65504.0f), v));
    bits = _mm512_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  } else {
    const __m512i word = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(word, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(word, bias), 16);
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    bits = _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, rounded, quiet));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
}

// ---- Fixed point ----

/// acc[0, 16) += round_to_even(term * 2^40). False where a term does not fit.
inline bool AddFixed(int64_t* acc, Lanes term) {
  const __mmask16 fits = _mm512_cmp_ps_mask(AbsBits(term), Splat(kFixedTermLimit), _CMP_LT_OQ);
  const Lanes scaled = Mul(term, Splat(kFixedScale));  // Exact: a power of two, far from overflow.
  const __m512i low = _mm512_cvtps_epi64(_mm512_castps512_ps256(scaled));
  const __m512i high = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(scaled, 1));
  _mm512_storeu_si512(acc, _mm512_add_epi64(_mm512_loadu_si512(acc), low));
  _mm512_storeu_si512(acc + 8, _mm512_add_epi64(_mm512_loadu_si512(acc + 8), high));
  return fits == 0xffff;
}
inline Lanes FromFixed(const int64_t* acc) {
  const __m256 low = _mm512_cvtepi64_ps(_mm512_loadu_si512(acc));
  const __m256 high = _mm512_cvtepi64_ps(_mm512_loadu_si512(acc + 8));
  return Mul(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1), Splat(kFixedUnit));
}

// ---- Codes ----

inline Codes LoadCodes(const uint8_t* p) { return _mm512_loadu_si512(p); }
template <int kShift>
inline Codes ShiftRight(Codes v) {
  return _mm512_srli_epi16(v, kShift);
}
template <int kShift>
inline Codes ShiftLeft(Codes v) {
  return _mm512_slli_epi16(v, kShift);
}
inline Codes And(Codes v, uint8_t mask) {
  return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(mask)));
}
inline Codes Or(Codes a, Codes b) { return _mm512_or_si512(a, b); }
/// Column `column` of a quad, as f32 lanes.
inline Lanes CodeColumn(Codes quad, int column) {
  return _mm512_cvtepi32_ps(
      _mm512_and_si512(_mm512_srli_epi32(quad, static_cast<unsigned>(8 * column)), _mm512_set1_epi32(0xff)));
}

#include "kernels/lane_codes.inc"
#include "kernels/lane_math.inc"

/// sum + the products of a quad's codes with x[0, 4), four to a lane. In assembly for the reason that
/// FmaSplat has, even where several tiles meet the same x: 1.14 times as fast for one token, 1.02 for many.
inline IntLanes DotQuad(Codes codes, const int8_t* x, IntLanes sum) {
  struct Four {
    int8_t x[4];
  };
  asm("vpdpbusd %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(*reinterpret_cast<const Four*>(x)), "v"(codes));
  return sum;
}

/// dots[i][t] += the products of strip i's codes with x[t][0, 32).
template <int kBits, int kTiles, int kTokens>
inline void DotStrips(const uint8_t* const* strips, const int8_t* const* x, IntLanes (*dots)[kTokens]) {
#pragma GCC unroll 8
  for (int quad = 0; quad < 8; ++quad) {
    Codes codes[kTiles];
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) codes[i] = UnpackQuad<kBits>(strips[i], quad);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) dots[i][t] = DotQuad(codes[i], x[t] + 4 * quad, dots[i][t]);
    }
  }
}

#include "kernels/lane_attention.inc"
#include "kernels/lane_kernels.inc"
#include "kernels/lane_matmul.inc"

constexpr Kernels kTable = {
    .isa = Isa::kAvx512,
#define SHOAL_KERNEL(result, name, Args) .name = name,
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

}  // namespace

const Kernels& Avx512Kernels() { return kTable; }

}  // namespace shoal
