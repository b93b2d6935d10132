// Weights as the kernels read them: interleaved by 16 output rows, so that a vector lane is a row and its sum
// is one chain whatever the width of the hardware.
//
// Layout: ceil(rows / 16) tiles, one after another; rows beyond `rows` are zero. A tile holds, for ascending
// k:
//   float weights   16 elements per column: [cols][16] of f32, f16 or bf16.
//   affine weights  one record per group: codes, then 16 scales, then 16 biases (f16, bf16 or f32). The codes
//   of 32
//     columns are a panel of bits * 64 bytes. A 4-column block has all 16 rows: byte 4 * row + column of
//     a 64-byte register, which is the operand layout of vpdpbusd and, 16 blocks together, of one AMX B tile.
//     A panel has 8 blocks, cut into planes of 4, 2 or 1 bits: 8 = 8, 6 = 4+2, 5 = 4+1, 4, 3 = 2+1, 2; low
//     bits first.
//       8 bit: register i holds block i.              4 bit: register i holds block 2i + j at bit 4j, j < 2.
//       2 bit: register i holds block 4i + j at bit 2j, j < 4.      1 bit: the one register holds block j at
//       bit j.
//   4 bits, groups of 64: 512 B of codes, 32 B of scales, 32 B of biases for 16 x 64 weights, 4.5 bits each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "numeric/affine.h"
#include "numeric/dtype.h"
#include "numeric/memory.h"

namespace shoal {

inline constexpr int64_t kTileRows = 16;
/// Columns of a panel, the unit of affine codes.
inline constexpr int64_t kPanelCols = 32;

/// What one element is.
struct PackedFormat {
  DType dtype = DType::kF32;  ///< Of the weights, or of the scales and biases of affine weights.
  int bits = 0;               ///< 0: float weights. Else the bits of an affine code.
  int group = 0;              ///< Columns per scale; 0 for float weights.

  bool affine() const { return bits != 0; }
  bool operator==(const PackedFormat&) const = default;
};

/// Bytes of a packed matrix.
int64_t PackedBytes(PackedFormat format, int64_t rows, int64_t cols);

/// A packed matrix [rows, cols] that somebody else owns.
struct PackedView {
  const uint8_t* data = nullptr;
  int64_t rows = 0;  ///< Output rows N, without the padding.
  int64_t cols = 0;  ///< Input columns K.
  PackedFormat format;
  int64_t tile_bytes = 0;

  /// Tiles of 16 rows: what matmul ranges count.
  int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  Range all_tiles() const { return {0, tiles()}; }
};

/// A packed matrix [rows, cols] with its memory, which it may share with others. Copies share it, too.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// Zeros. Rows are filled by the calls below, each row by one call; calls for different rows may run in
  /// parallel. cols is a multiple of format.group. Returns ResourceExhausted.
  static absl::StatusOr<PackedMatrix> Allocate(PackedFormat format, int64_t rows, int64_t cols);
  /// The matrix whose PackedBytes are at `memory`, aligned to 64: zeros to be filled as above, or one that
  /// was packed before.
  static PackedMatrix In(std::shared_ptr<std::byte> memory, PackedFormat format, int64_t rows, int64_t cols);
  /// The whole of `source`, packed by one thread. Returns ResourceExhausted.
  static absl::StatusOr<PackedMatrix> PackAffine(const AffineView& source);
  /// data: [rows, cols] elements of dtype (f32, f16, bf16), row r at element r * stride, perhaps unaligned.
  static absl::StatusOr<PackedMatrix> PackFloat(const void* data, DType dtype, int64_t rows, int64_t cols,
                                                int64_t stride);

  /// Rows [first, first + source_rows.size()) become rows `source_rows` of `source`, whose bits, group, scale
  /// dtype and cols are this matrix's. The slice of a fused or stacked tensor is a range; a permutation is
  /// one call per row.
  void set_affine_rows(int64_t first, const AffineView& source, Range source_rows);
  /// As above from plain elements of this matrix's dtype; row r of the source starts at element r * stride.
  void set_float_rows(int64_t first, const void* source, int64_t stride, Range source_rows);

  PackedView view() const;
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  const PackedFormat& format() const { return format_; }
  int64_t bytes() const { return PackedBytes(format_, rows_, cols_); }

  /// Row `row` as f32 [cols]: affine weights as round(scale * code) + bias, rounded; floats exactly. For
  /// embeddings.
  void unpack_row(int64_t row, float* out) const;

 private:
  PackedFormat format_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t tile_bytes_ = 0;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace shoal
