// NEON with i8mm (ARMv8.6 and most of ARMv9: Neoverse V1 and N2, Cortex-X2, Apple M2): the products of two
// rows of weights with two rows of activations over eight columns are one exact instruction that takes
// unsigned codes (usmmla). It serves matmuls of many rows; all other kernels are those of neon_dotprod.cpp.
// Exports NeonI8mmKernels alone.
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

#include "kernels/lane_neon.inc"
#include "kernels/lane_tiles.inc"

/// A block has 8 rows of x and 8 rows of a tile. Registers, of 32: 32-bit sums take 16, weights 4, rows of x
/// 4, unpacked codes 4. With all 16 rows of a tile only 4 rows of x would fit, and unpacking and interleaving
/// the weights would cost as much as usmmla saves over sdot.
constexpr int kRowsTogether = 8;
constexpr int kHalfRows = 8;
constexpr int kRowPairs = kRowsTogether / 2;
constexpr int kHalfPairs = kHalfRows / 2;

/// A register holds {w0 x0, w0 x1, w1 x0, w1 x1} for rows w0, w1 of the half tile and rows x0, x1 of
/// activations.
using HalfSums = int32x4_t[kRowPairs][kHalfPairs];

inline uint8x16_t InterleaveLow(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u32(vzip1q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}
inline uint8x16_t InterleaveHigh(uint8x16_t a, uint8x16_t b) {
  return vreinterpretq_u8_u32(vzip2q_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)));
}

/// sums += the products of half of a panel's rows with x[t][0, 32), or of its kBlocks 4-column blocks from kFirst on. Two
/// blocks, interleaved, give registers of eight columns of two rows.
template <int kBits, int kHalf, int kFirst = 0, int kBlocks = 8>
inline void DotHalfPanel(const uint8_t* panel, const int8_t* const* x, HalfSums& sums) {
#pragma GCC unroll 4
  for (int block = kFirst; block < kFirst + kBlocks; block += 2) {
    const Codes low = UnpackBlock<kBits>(panel, block);
    const Codes high = UnpackBlock<kBits>(panel, block + 1);
    uint8x16_t weights[kHalfPairs];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      weights[2 * i] = InterleaveLow(low.v[2 * kHalf + i], high.v[2 * kHalf + i]);
      weights[2 * i + 1] = InterleaveHigh(low.v[2 * kHalf + i], high.v[2 * kHalf + i]);
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < kRowPairs; ++pair) {
      const int8x16_t columns =
          vcombine_s8(vld1_s8(x[2 * pair] + 4 * block), vld1_s8(x[2 * pair + 1] + 4 * block));
#pragma GCC unroll 4
      for (int i = 0; i < kHalfPairs; ++i) sums[pair][i] = vusmmlaq_s32(sums[pair][i], weights[i], columns);
    }
  }
}

/// A group of a tile: its codes, then scales and biases.
struct Group {
  const uint8_t* codes;
  Lanes scale;
  Lanes bias;
};

/// acc[t] += the products of half of a group's rows with rows t of x. A group is `panels` panels, or kBlocks 4-column blocks
/// of one from kFirst on.
template <int kBits, int kHalf, int kFirst = 0, int kBlocks = 8>
inline void AddHalfGroup(const Group& group, int64_t panels, const int8_t* const* x,
                         const RowScales& x_scales, Lanes* acc) {
  HalfSums dots;
#pragma GCC unroll 4
  for (auto& pair : dots) {
#pragma GCC unroll 4
    for (int32x4_t& rows : pair) rows = vdupq_n_s32(0);
  }
  const int8_t* columns[kRowsTogether];
#pragma GCC unroll 8
  for (int t = 0; t < kRowsTogether; ++t) columns[t] = x[t];
  for (int64_t s = 0; s < panels; ++s) {
    DotHalfPanel<kBits, kHalf, kFirst, kBlocks>(group.codes + s * kBits * 64, columns, dots);
#pragma GCC unroll 8
    for (int t = 0; t < kRowsTogether; ++t) columns[t] += kPanelCols;
  }
#pragma GCC unroll 8
  for (int t = 0; t < kRowsTogether; ++t) {
    const float x_scale = x_scales.scales[t * x_scales.stride];
    const float x_sum = x_scales.sums[t * x_scales.stride];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const int32x4_t a = dots[t / 2][2 * i];
      const int32x4_t b = dots[t / 2][2 * i + 1];
      const float32x4_t dot = vcvtq_f32_s32(t % 2 == 0 ? vuzp1q_s32(a, b) : vuzp2q_s32(a, b));
      constexpr int kRows = 2 * kHalf;
      float32x4_t& sum = acc[t].v[kRows + i];
      sum = vfmaq_f32(sum, dot, vmulq_f32(group.scale.v[kRows + i], vdupq_n_f32(x_scale)));
      sum = vfmaq_f32(sum, group.bias.v[kRows + i], vdupq_n_f32(x_sum));
    }
  }
}

// y[t, n] for rows t in [first, first + 8) and the rows n of `tile`. Bound: usmmla, 128 per panel of 32
// columns (sdot takes 256). Beside them, 64 instructions unpack and interleave 4-bit codes, 64 load columns,
// and 24 per group and row rescale. The float sums wait in the first-level cache while integer sums occupy
// the registers.
template <int kBits, int kTogether>
inline void AffineBlock(const MatmulAffineArgs& args, int64_t tile, int64_t first) {
  const PackedView& w = args.w;
  const int64_t groups = w.cols / w.format.group;
  const int64_t panels = AffineSpan(w.format.group) / kPanelCols;
  const int64_t scale_bytes = ScaleBytes(w.format);
  const uint8_t* record = w.data + tile * w.tile_bytes;
  const RowScales x_scales{args.x.scales + first * groups, args.x.sums + first * groups, groups};
  const int8_t* x[kRowsTogether];
  Lanes acc[kRowsTogether];
  for (int t = 0; t < kRowsTogether; ++t) {
    x[t] = args.x.codes + (first + t) * w.cols;
    acc[t] = Zero();
  }
  for (int64_t g = 0; g < groups; g += kTogether) {
    const uint8_t* at = record + panels * kBits * 64;
    const auto next_group = [&] {
      const Group group{record, LoadElements(at, w.format.dtype, 0),
                        LoadElements(at + scale_bytes, w.format.dtype, 0)};
      at += 2 * scale_bytes;
      return group;
    };
    const Group group = next_group();
    if constexpr (kTogether == 2) {
      AddHalfGroup<kBits, 0, 0, 4>(group, 1, x, x_scales.at(g), acc);
      AddHalfGroup<kBits, 1, 0, 4>(group, 1, x, x_scales.at(g), acc);
      const Group second = next_group();
      AddHalfGroup<kBits, 0, 4, 4>(second, 1, x, x_scales.at(g + 1), acc);
      AddHalfGroup<kBits, 1, 4, 4>(second, 1, x, x_scales.at(g + 1), acc);
    } else {
      AddHalfGroup<kBits, 0>(group, panels, x, x_scales.at(g), acc);
      AddHalfGroup<kBits, 1>(group, panels, x, x_scales.at(g), acc);
    }
    for (const int8_t*& columns : x) columns += AffineSpan(w.format.group);
    record = at;
  }
  for (int t = 0; t < kRowsTogether; ++t) {
    StoreTileRow(w, tile, acc[t], args.y.data + (first + t) * args.y.stride);
  }
}

// Multiplies all rows, eight at a time; their number is a multiple of eight.
template <int kBits, int kTogether = 1>
void AffineTiles(const MatmulAffineArgs& args) {
  const int64_t pass = MaxOf(kCachedRowBytes / args.w.cols / kRowsTogether, 1) * kRowsTogether;
  for (int64_t begin = 0; begin < args.x.rows; begin += pass) {
    const int64_t end = MinOf(begin + pass, args.x.rows);
    for (int64_t tile = args.tiles.begin; tile < args.tiles.end; ++tile) {
      for (int64_t t = begin; t < end; t += kRowsTogether) AffineBlock<kBits, kTogether>(args, tile, t);
    }
  }
}

void matmul_affine(const MatmulAffineArgs& args) {
  const int64_t eights = args.x.rows / kRowsTogether * kRowsTogether;
  MatmulAffineArgs rows = args;
  if (eights < args.x.rows) {  // Fewer than eight rows are (nearly) bound by memory, so sdot is as fast.
    rows.x = args.x.rows_between({eights, args.x.rows});
    rows.y.data = args.y.data + eights * args.y.stride;
    NeonDotprodKernels().matmul_affine(rows);
  }
  if (eights == 0) return;
  rows.x = args.x.rows_between({0, eights});
  rows.y.data = args.y.data;
  if (args.w.format.group == kHalfPanelGroup) {
    switch (args.w.format.bits) {
      case 2:
        return AffineTiles<2, 2>(rows);
      case 3:
        return AffineTiles<3, 2>(rows);
      default:
        return AffineTiles<6, 2>(rows);
    }
  }
  switch (args.w.format.bits) {
    case 2:
      return AffineTiles<2>(rows);
    case 3:
      return AffineTiles<3>(rows);
    case 4:
      return AffineTiles<4>(rows);
    case 5:
      return AffineTiles<5>(rows);
    case 6:
      return AffineTiles<6>(rows);
    default:
      return AffineTiles<8>(rows);
  }
}

}  // namespace

const Kernels& NeonI8mmKernels() {
  static const Kernels table = [] {
    Kernels kernels = NeonDotprodKernels();
    kernels.isa = Isa::kNeonI8mm;
    kernels.matmul_affine = matmul_affine;
    return kernels;
  }();
  return table;
}

}  // namespace shoal
