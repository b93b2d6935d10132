#include "formats/tiled_heads.h"

#include <cstring>

#include "base/check.h"

namespace shoal {

void OrderColumns(const TiledHeads& order, const void* from, int64_t rows, int64_t row_bytes, void* to) {
  SHOAL_CHECK(order.of_columns() && order.begin == 0 && row_bytes % order.heads() == 0);
  const int64_t head_bytes = row_bytes / order.heads();
  for (int64_t row = 0; row < rows; ++row) {
    const char* source = static_cast<const char*>(from) + row * row_bytes;
    char* target = static_cast<char*>(to) + row * row_bytes;
    for (int64_t head = 0; head < order.heads(); ++head) {
      std::memcpy(target + head * head_bytes, source + order.stored_head(head) * head_bytes,
                  static_cast<size_t>(head_bytes));
    }
  }
}

}  // namespace shoal
