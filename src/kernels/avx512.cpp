// AVX-512 with VNNI: 16 lanes are one register, and four code products with their sum are one exact
// instruction (vpdpbusd). Exports Avx512Kernels alone; all else is local to this file, since it may run only
// on CPUs that have these instructions.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

#include "kernels/lane_avx512.inc"

// Registers, of 32: a matmul block of 2 tiles x 6 tokens keeps 12 integer and 12 float sums; 8 are left for
// weights, scales and the codes of a row.
constexpr int kAffineTiles = 2;
constexpr int kAffineTokens = 6;
constexpr int kFloatTiles = 2;
constexpr int kFloatTokens = 8;
constexpr int kQueriesAtOnce = 8;
constexpr int kAttentionSums = 16;

#include "kernels/lane_codes.inc"
#include "kernels/lane_math.inc"

/// sum + the products of a 4-column block's codes with x[0, 4), four per lane. In assembly for the same
/// reason as FmaSplat, even if several tiles share x: 1.14 times as fast for one token, 1.02 times for many.
inline IntLanes DotBlock(Codes codes, const int8_t* x, IntLanes sum) {
  struct Four {
    int8_t x[4];
  };
  asm("vpdpbusd %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(*reinterpret_cast<const Four*>(x)), "v"(codes));
  return sum;
}

/// dots[i][t] += the products of panel i's codes with x[t][0, 32).
template <int kBits, int kTiles, int kTokens>
inline void DotPanels(const uint8_t* const* panels, const int8_t* const* x, IntLanes (*dots)[kTokens]) {
#pragma GCC unroll 8
  for (int block = 0; block < 8; ++block) {
    Codes codes[kTiles];
#pragma GCC unroll 4
    for (int i = 0; i < kTiles; ++i) codes[i] = UnpackBlock<kBits>(panels[i], block);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < kTiles; ++i) dots[i][t] = DotBlock(codes[i], x[t] + 4 * block, dots[i][t]);
    }
  }
}

#include "kernels/lane_query_rows.inc"

/// Queries that meet a panel of int8 keys, or of values, together.
constexpr int kKeyQueries = 8;
constexpr int kValueQueries = 8;

#include "kernels/lane_affine.inc"
#include "kernels/lane_attention.inc"
#include "kernels/lane_index.inc"
#include "kernels/lane_kernels.inc"
#include "kernels/lane_matmul.inc"
#include "kernels/lane_recurrent.inc"

constexpr Kernels kTable = {
    .isa = Isa::kAvx512,
#define SHOAL_KERNEL(result, name, Args) .name = name,
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

}  // namespace

const Kernels& Avx512Kernels() { return kTable; }

}  // namespace shoal
