// NEON with dot products (ARMv8.2 and later: Cortex-A76, Neoverse N1): four code products of four rows, with
// their sums, are one exact instruction (sdot). Exports NeonDotprodKernels alone.
#include <arm_neon.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

#include "kernels/lane_neon.inc"

// Registers, of 32: four rows take 16 for their sums in a panel and 8 for its columns, codes 4, masks 1.
constexpr int kAffineTokens = 4;

/// sums + the products of codes with columns [4 * lane, 4 * lane + 4) of x. A switch, because sdot takes the
/// lane as a literal.
inline int32x4_t DotLane(int32x4_t sums, int8x16_t codes, int8x16_t x, int lane) {
  switch (lane) {
    case 0:
      return vdotq_laneq_s32(sums, codes, x, 0);
    case 1:
      return vdotq_laneq_s32(sums, codes, x, 1);
    case 2:
      return vdotq_laneq_s32(sums, codes, x, 2);
    default:
      return vdotq_laneq_s32(sums, codes, x, 3);
  }
}

/// dots[0][t] += the products of a panel's codes with x[t][0, 32), or of its kBlocks 4-column blocks from kFirst on.
template <int kBits, int kTiles, int kTokens, int kFirst = 0, int kBlocks = 8>
inline void DotPanels(const uint8_t* const* panels, const int8_t* const* x, IntLanes (*dots)[kTokens]) {
  static_assert(kTiles == 1 && (kBits < 8 || kBlocks == 8));  // AddOffset is of whole panels.
  int8x16_t columns[kTokens][2];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) {
    columns[t][0] = vld1q_s8(x[t]);
    columns[t][1] = vld1q_s8(x[t] + 16);
    AddOffset<kBits>(x[t], dots[0][t]);
  }
#pragma GCC unroll 16
  for (int block = kFirst; block < kFirst + kBlocks; ++block) {
    const Codes codes = UnpackBlock<kBits>(panels[0], block);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const int8x16_t rows = SignedCodes<kBits>(codes.v[i]);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        dots[0][t].v[i] = DotLane(dots[0][t].v[i], rows, columns[t][block / 4], block % 4);
      }
    }
  }
}

#include "kernels/lane_query_rows.inc"

/// Queries that meet a panel of int8 keys, or of values, together.
constexpr int kKeyQueries = 4;
constexpr int kValueQueries = 2;

#include "kernels/lane_affine.inc"
#include "kernels/lane_attention.inc"
#include "kernels/lane_index.inc"
#include "kernels/lane_kernels.inc"
#include "kernels/lane_matmul.inc"
#include "kernels/lane_recurrent.inc"

constexpr Kernels kTable = {
    .isa = Isa::kNeonDotprod,
#define SHOAL_KERNEL(result, name, Args) .name = name,
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

}  // namespace

const Kernels& NeonDotprodKernels() { return kTable; }

}  // namespace shoal
