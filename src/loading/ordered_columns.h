// Puts the columns of rows, as a file has them, into the model's order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/tiled_heads.h"
#include "numeric/affine.h"

namespace shoal {

/// Rows whose columns are those of value heads in the model's order (TiledHeads::columns); rows of any other weight stay
/// as they are. Grows once, and is used again for the next rows. What it gives is valid until the next call.
class OrderedColumns {
 public:
  explicit OrderedColumns(const TiledHeads& order) : order_(order) {}

  /// Codes, scales and biases move together: each head has whole groups (CHECK).
  AffineView affine(const AffineView& rows);
  /// rows: [count, row_bytes], of which each head has the same share (CHECK).
  const void* floats(const void* rows, int64_t count, int64_t row_bytes);

 private:
  const void* put(const void* rows, int64_t count, int64_t row_bytes, std::vector<std::byte>& ordered) const;

  TiledHeads order_;
  std::vector<std::byte> words_;
  std::vector<std::byte> scales_;
  std::vector<std::byte> biases_;
};

}  // namespace shoal
