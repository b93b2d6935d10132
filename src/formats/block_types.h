// The block encodings of GGUF: what a block holds, and how its values become affine groups (numeric/affine.h)
// or floats without losing a bit. The packed layout knows no blocks: they are decoded on the way in.
//
//   type         block           becomes             why exact
//   Q4_0         18 B of 32      4 bit, f16 scales   w = d (q - 8): bias = -8 d, a power of two times an f16
//   Q4_1         20 B of 32      4 bit, f16 scales   w = d q + m
//   Q5_0, Q5_1   22, 24 B of 32  5 bit, f16 scales   as Q4_0 and Q4_1 with 5 bits: bias = -16 d, or m
//   Q8_0         34 B of 32      8 bit, f16 scales   w = d q, q signed: code = q + 128, bias = -128 d
//   Q4_K, Q5_K   144, 176 B      4, 5 bit,           w = (d sc) q - (dmin m): 11 bits times 6 bits need 17
//                of 256          f32 scales
//   IQ4_NL       18 B of 32      8 bit, f16 scales   w = d t, t one of 16 integers from -127 to 113: as Q8_0
//   IQ4_XS       136 B of 256    8 bit, f32 scales   w = (d sc) t: 11 bits times 5, times 8, need 24
//   Q6_K         210 B of 256    6 bit, f32 scales   w = (d sc) (q - 32), in groups of 16: 11 bits times 7, times 6
//                                                    for the bias and the value, need 24
//   Q3_K         110 B of 256    3 bit, f32 scales   w = (d sc) (q - 4), in groups of 16
//   Q2_K         84 B of 256     2 bit, f32 scales   w = (d sc) q - (dmin m), in groups of 16: 15 bits
//   MXFP4        17 B of 32      5 bit, bf16 scales  twice an e2m1 value is one of -12 .. 12; the scale is a
//                                                    power of two
//
// And the encodings of Hugging Face folders that keep codes and scales in tensors of their own:
//
//   encoding     stored                    becomes             why exact
//   mxfp4        e2m1, e8m0 per 32         5 bit, bf16 scales  as MXFP4 above
//   nvfp4        e2m1, e4m3 per 16         bf16                2 bits times 4 bits; no groups of 16 here
//   mxfp8        e4m3, e8m0 per 32         bf16                4 bits times a power of two
//   fp8 blocks   e4m3, f32 per 128 x 128   f32                 one rounding, that of the reference's product; a block may
//                                                              be a row, or the whole matrix, and a scale bf16
//   GPTQ, AWQ    4 or 8 bit, a zero point  the same, f32       w = s q - s z: 11 bits times 4 need 15, times 8 need 19
//   GPTQ ordered the same, g_idx           f32                 columns have groups in any order (desc_act)
//   packed int   4 or 8 bit, symmetric     the same, own       w = s (q - 8), s (q - 128)
//   int8         8 bit, symmetric          8 bit, own scales   a scale per row, or one for all: w = s q
//
// Source: ggml's quantization formats as ggml-quants.c dequantizes them; the PyPI package `gguf` is the
// second opinion that the goldens were made with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "formats/tiled_heads.h"
#include "numeric/affine.h"
#include "numeric/dtype.h"

namespace shoal {

enum class BlockType : uint8_t {
  kNone,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kQ2_K,
  kQ3_K,
  kIq4Nl,
  kIq4Xs,
  kMxfp4,
  kMxfp4Words,
  kNvfp4Words,
  kMxfp8Words,
  kFp8Blocks,
  kGptq,
  kAwq,
  kPackedInt4,
  kGptq8,
  kPackedInt8,
  kGptqOrdered,
  kGptq8Ordered,
  kInt8Rows
};

/// What a block is on disk, and what it is decoded to.
struct BlockLaw {
  BlockType type = BlockType::kNone;
  std::string_view name;      ///< "Q4_K", as in a GGUF.
  int elements = 0;           ///< Columns of a block.
  int bytes = 0;              ///< Of a block.
  int bits = 0;               ///< Of an affine code; 0: decoded to floats.
  int group = 0;              ///< Columns per scale; 0 where decoded to floats.
  DType dtype = DType::kF32;  ///< Of the scales, or of the floats.
};

/// How blocks of a type other than kNone (CHECK) are stored and decoded.
const BlockLaw& LawOf(BlockType type);

/// The type behind ggml's number for it (enum ggml_type); nullopt where this is no block type that is read.
std::optional<BlockType> BlockTypeFromGgml(uint32_t ggml_type);

/// The widest affine group of which `columns` is a multiple: groups that share a scale are so many groups with the same one.
/// 0: none.
constexpr int AffineGroupIn(int64_t columns) {
  for (const int group : {128, 64, 32}) {
    if (columns > 0 && columns % group == 0) return group;
  }
  return 0;
}

/// A matrix [rows, cols] of blocks; row r is cols / elements blocks from row_bytes() * r on. Does not own.
struct BlockView {
  BlockType type = BlockType::kNone;
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  // Of encodings whose scales are apart:
  const std::byte* scales = nullptr;  ///< [rows, cols / group]; GPTQ and AWQ [cols / group, rows]
  const std::byte* zeros = nullptr;   ///< GPTQ and AWQ: i32 [cols / group, rows / 8]
  DType scales_dtype = DType::kF32;   ///< Of `scales`.
  const std::byte* order = nullptr;   ///< GPTQ with act-order: i32 [cols], the group of each column.
  int group = 0;                      ///< Columns per scale.
  int group_rows = 1;                 ///< Rows per scale (fp8 blocks).
  int zero_offset = 0;                ///< GPTQ: added to a stored zero.

  /// The dtype of decoded scales or floats, and the columns per decoded scale (0: floats).
  DType decoded_dtype() const {
    const bool own =
        type == BlockType::kPackedInt4 || type == BlockType::kPackedInt8 || type == BlockType::kInt8Rows;
    return own ? scales_dtype : LawOf(type).dtype;
  }
  int decoded_group() const {
    return LawOf(type).bits == 0 ? 0 : LawOf(type).group > 0 ? LawOf(type).group : AffineGroupIn(group);
  }
  /// Matrix `index` of a stack of `count`, whose rows stand one after another.
  BlockView matrix(int64_t index, int64_t count) const;
  /// Bytes of a row's codes, on average where rows share words (GPTQ, AWQ).
  int64_t row_bytes() const { return cols / LawOf(type).elements * LawOf(type).bytes; }
};

/// Some rows of a BlockView, decoded. Grows once, and is used again for the next rows.
class DecodedRows {
 public:
  /// Decodes rows[0 .. rows.size()) of `view`, in this order. False where a block has a scale that the
  /// decoded layout cannot hold (a NaN or an infinity, or so large that its bias leaves the range of f16):
  /// then `bad_row` is that row.
  bool decode(const BlockView& view, const std::vector<int64_t>& rows);

  /// The rows as affine groups: of a type whose law has bits.
  AffineView affine() const;
  /// The rows as floats [rows, cols] of the law's dtype; of a type without.
  const void* floats() const { return words_.data(); }
  /// One value, whatever the law: round(scale * code) + bias, rounded, or the float.
  float value(int64_t row, int64_t col) const;
  int64_t bad_row() const { return bad_row_; }
  /// Puts the columns, those of value heads (TiledHeads::columns), into the hub's order. Groups move with their head,
  /// which has whole ones (CHECK).
  void order_columns(const TiledHeads& order);

 private:
  BlockType type_ = BlockType::kNone;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  DType dtype_ = DType::kF32;
  int group_ = 0;
  int64_t bad_row_ = -1;
  std::vector<uint8_t> words_;
  std::vector<uint8_t> scales_;
  std::vector<uint8_t> biases_;
  std::vector<uint8_t> ordered_;
};

}  // namespace shoal
