// Weights in the order in which kernels read them: interleaved by 16 output rows, so that a vector lane is a
// row, and a row's sum is one chain whatever the vector width.
//
// A matrix is ceil(rows / 16) tiles, one after another; rows beyond `rows` are zero. A tile holds, for
// ascending k:
//   float weights    [cols][16] elements of f32, f16 or bf16.
//   affine weights   one record per group of columns: codes, 16 scales, 16 biases (f16, bf16 or f32). Two groups of 16
//                    columns are one record: codes, scales and biases of the first group, those of the second.
//
// Codes are stored in panels of 32 columns, bits * 64 bytes each. A panel is eight 4-column blocks. A block
// has 4 columns of all 16 rows: its code (row, column) is byte 4 * row + column of a 64-byte register. That
// is the operand layout of vpdpbusd; 16 blocks are one B tile of AMX.
//
// A panel stores its codes as one or two bit planes, low bits first:
//   bits of a code   8   6      5      4   3      2
//   bits of planes   8   4, 2   4, 1   4   2, 1   2
// A plane of p bits has p registers (64 p bytes). Register i holds
//   p = 8   block i
//   p = 4   block 2i + j at bit 4j, j < 2
//   p = 2   block 4i + j at bit 2j, j < 4
//   p = 1   block j at bit j, j < 8
//
// Example: a record of 4 bits and groups of 64 has 512 B of codes, 32 B of scales and 32 B of biases for
// 16 x 64 weights, 4.5 bits each.
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
/// Columns of a panel, the unit in which affine codes are stored.
inline constexpr int64_t kPanelCols = 32;
/// Columns of a group that is half of a panel.
inline constexpr int kHalfPanelGroup = 16;

/// The format of the elements.
struct PackedFormat {
  DType dtype = DType::kF32;  ///< Of float weights, or of the scales and biases of affine weights.
  int bits = 0;               ///< 0: float weights. Else the bits of an affine code.
  int group = 0;              ///< Columns per scale; 0 for float weights.

  bool affine() const { return bits != 0; }
  bool operator==(const PackedFormat&) const = default;
};

/// Bytes of a packed matrix.
int64_t PackedBytes(PackedFormat format, int64_t rows, int64_t cols);

/// A view of a packed matrix [rows, cols].
struct PackedView {
  const uint8_t* data = nullptr;
  int64_t rows = 0;  ///< Output rows N, without the padding.
  int64_t cols = 0;  ///< Input columns K.
  PackedFormat format;
  int64_t tile_bytes = 0;

  /// Tiles of 16 rows: the unit of the ranges of matmul kernels.
  int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  Range all_tiles() const { return {0, tiles()}; }
};

/// A packed matrix [rows, cols] that owns its memory, possibly together with other matrices. Copies share it.
class PackedMatrix {
 public:
  PackedMatrix() = default;

  /// A matrix of zeros. The calls below fill its rows, each row once; calls for different rows may run in
  /// parallel. cols is a multiple of AffineSpan(format.group). Returns ResourceExhausted.
  static absl::StatusOr<PackedMatrix> Allocate(PackedFormat format, int64_t rows, int64_t cols);
  /// The matrix whose PackedBytes lie at `memory`, aligned to 64 bytes: zeros to be filled, or a matrix that
  /// was packed before.
  static PackedMatrix In(std::shared_ptr<std::byte> memory, PackedFormat format, int64_t rows, int64_t cols);
  /// Packs all of `source` on the calling thread. Returns ResourceExhausted.
  static absl::StatusOr<PackedMatrix> PackAffine(const AffineView& source);
  /// As PackAffine. data: [rows, cols] elements of dtype (f32, f16, bf16), possibly unaligned; row r begins
  /// at element r * stride.
  static absl::StatusOr<PackedMatrix> PackFloat(const void* data, DType dtype, int64_t rows, int64_t cols,
                                                int64_t stride);

  /// Fills rows [first, first + source_rows.size()) with rows `source_rows` of `source`, which has the bits,
  /// group, scale dtype and cols of this matrix. A slice of a fused or stacked tensor is one range; a
  /// permutation takes one call per row.
  void set_affine_rows(int64_t first, const AffineView& source, Range source_rows);
  /// As set_affine_rows, from unquantized elements of this matrix's dtype; row r of the source begins at
  /// element r * stride.
  void set_float_rows(int64_t first, const void* source, int64_t stride, Range source_rows);

  PackedView view() const;
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  const PackedFormat& format() const { return format_; }
  int64_t bytes() const { return PackedBytes(format_, rows_, cols_); }

  /// Writes row `row` as f32 [cols], for embeddings: affine weights as round(round(scale * code) + bias),
  /// floats exactly.
  void unpack_row(int64_t row, float* out) const;

 private:
  PackedFormat format_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t tile_bytes_ = 0;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace shoal
