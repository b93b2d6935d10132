#include "base/check.h"
#include "kernels/kernels.h"

namespace shoal {
namespace {

constexpr int64_t kAlignment = 64;
int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

struct Layout {
  int64_t code_bytes;
  int64_t scale_bytes;
};

Layout LayoutOf(int64_t rows, int64_t cols, int group) {
  SHOAL_CHECK(rows >= 0 && IsAffineGroup(group) && cols % group == 0);
  return {RoundUp(rows * cols), RoundUp(rows * (cols / group) * static_cast<int64_t>(sizeof(float)))};
}

}  // namespace

QuantizedRows QuantizedRows::rows_between(Range range) const {
  SHOAL_CHECK(0 <= range.begin && range.begin <= range.end && range.end <= rows);
  QuantizedRows part = *this;
  part.codes += range.begin * cols;
  part.scales += range.begin * groups();
  part.sums += range.begin * groups();
  part.rows = range.size();
  return part;
}

int64_t QuantizedRowsBytes(int64_t rows, int64_t cols, int group) {
  const Layout layout = LayoutOf(rows, cols, group);
  return layout.code_bytes + 2 * layout.scale_bytes;
}

QuantizedRows QuantizedRowsIn(void* memory, int64_t rows, int64_t cols, int group) {
  const Layout layout = LayoutOf(rows, cols, group);
  auto* base = static_cast<std::byte*>(memory);
  return {.codes = reinterpret_cast<int8_t*>(base),
          .scales = reinterpret_cast<float*>(base + layout.code_bytes),
          .sums = reinterpret_cast<float*>(base + layout.code_bytes + layout.scale_bytes),
          .rows = rows,
          .cols = cols,
          .group = group};
}

int64_t KvBlockBytes(int64_t kv_heads, int64_t head_dim, DType dtype) {
  return kv_heads * KvHeadBytes(head_dim, dtype);
}

}  // namespace shoal
