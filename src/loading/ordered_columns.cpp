#include "loading/ordered_columns.h"

#include <cstring>

#include "base/check.h"

namespace shoal {

AffineView OrderedColumns::affine(const AffineView& rows) {
  if (!order_.of_columns()) return rows;
  SHOAL_CHECK_EQ(order_.size % rows.group, 0);
  const int64_t scale_bytes = rows.groups_per_row() * DTypeBytes(rows.scale_dtype);
  AffineView ordered = rows;
  ordered.words = put(rows.words, rows.rows, rows.words_per_row() * 4, words_);
  ordered.scales = put(rows.scales, rows.rows, scale_bytes, scales_);
  ordered.biases = put(rows.biases, rows.rows, scale_bytes, biases_);
  return ordered;
}

const void* OrderedColumns::floats(const void* rows, int64_t count, int64_t row_bytes) {
  return order_.of_columns() ? put(rows, count, row_bytes, words_) : rows;
}

const void* OrderedColumns::put(const void* rows, int64_t count, int64_t row_bytes,
                                std::vector<std::byte>& ordered) const {
  SHOAL_CHECK(order_.begin == 0 && row_bytes % order_.heads() == 0);
  const int64_t head_bytes = row_bytes / order_.heads();
  ordered.resize(static_cast<size_t>(count * row_bytes));
  for (int64_t row = 0; row < count; ++row) {
    const std::byte* from = static_cast<const std::byte*>(rows) + row * row_bytes;
    std::byte* to = ordered.data() + row * row_bytes;
    for (int64_t head = 0; head < order_.heads(); ++head) {
      std::memcpy(to + head * head_bytes, from + order_.stored_head(head) * head_bytes,
                  static_cast<size_t>(head_bytes));
    }
  }
  return ordered.data();
}

}  // namespace shoal
