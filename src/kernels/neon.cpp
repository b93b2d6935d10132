// NEON of every AArch64 CPU (Cortex-A53, A57, A72), without dot-product instructions: code products are added
// in 16 bits as far as the worst case allows. Exports NeonKernels alone.
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

// Registers, of 32: two rows take 16 for 16-bit sums of two columns each, codes 4, the columns of a row and
// masks 3.
constexpr int kAffineTokens = 2;

/// dots[0][t] += the products of a panel's codes with x[t][0, 32), or of its kCount 4-column blocks from kFrom on.
template <int kBits, int kTiles, int kTokens, int kFrom = 0, int kCount = 8>
inline void DotPanels(const uint8_t* const* panels, const int8_t* const* x, IntLanes (*dots)[kTokens]) {
  static_assert(kTiles == 1 && (kBits < 8 || kCount == 8));  // AddOffset is of whole panels.
  // How many 4-column blocks can be added in 16 bits: a product is at most 127 * the largest code.
  constexpr int kLargest = 127 * LargestSigned(kBits);
  constexpr int kFit = 8 * kLargest <= INT16_MAX ? 8 : 4 * kLargest <= INT16_MAX ? 4 : 2;
  constexpr int kBlocks = kFit < kCount ? kFit : kCount;
  static_assert(kBlocks * kLargest <= INT16_MAX);
#pragma GCC unroll 16
  for (int first = kFrom; first < kFrom + kCount; first += kBlocks) {
    // [token][register of four rows][its first or last two rows]: sums by column.
    int16x8_t sums[kTokens][4][2];
#pragma GCC unroll 16
    for (auto& token : sums) {
#pragma GCC unroll 4
      for (auto& rows : token) rows[0] = rows[1] = vdupq_n_s16(0);
    }
#pragma GCC unroll 16
    for (int block = first; block < first + kBlocks; ++block) {
      const Codes codes = UnpackBlock<kBits>(panels[0], block);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        int32_t four;
        std::memcpy(&four, x[t] + 4 * block, 4);
        const int8x16_t columns = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const int8x16_t rows = SignedCodes<kBits>(codes.v[i]);
          sums[t][i][0] = vmlal_s8(sums[t][i][0], vget_low_s8(rows), vget_low_s8(columns));
          sums[t][i][1] = vmlal_high_s8(sums[t][i][1], rows, columns);
        }
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int32x4_t rows = vpaddq_s32(vpaddlq_s16(sums[t][i][0]), vpaddlq_s16(sums[t][i][1]));
        dots[0][t].v[i] = vaddq_s32(dots[0][t].v[i], rows);
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) AddOffset<kBits>(x[t], dots[0][t]);
}

#include "kernels/lane_query_rows.inc"

/// Queries that meet a panel of int8 keys, or of values, together.
constexpr int kKeyQueries = 2;
constexpr int kValueQueries = 1;

#include "kernels/lane_affine.inc"
#include "kernels/lane_attention.inc"
#include "kernels/lane_index.inc"
#include "kernels/lane_kernels.inc"
#include "kernels/lane_matmul.inc"
#include "kernels/lane_recurrent.inc"

constexpr Kernels kTable = {
    .isa = Isa::kNeon,
#define SHOAL_KERNEL(result, name, Args) .name = name,
#include "kernels/kernel_list.inc"
#undef SHOAL_KERNEL
};

}  // namespace

const Kernels& NeonKernels() { return kTable; }

}  // namespace shoal
