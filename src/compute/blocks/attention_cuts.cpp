#include "compute/blocks/attention_cuts.h"

#include <algorithm>

#include "base/check.h"

namespace shoal {
namespace {

/// A row of less than this fraction of a part is not cut.
constexpr int64_t kRowsLeftWhole = 16;

/// The cell border next to `offset`, in positions of single heads, from the start of a row.
AttentionCut CutRow(int64_t row, Range positions, int64_t kv_heads, int64_t offset) {
  const Range splits = AttentionSplits(positions);
  for (int64_t split = splits.begin; split < splits.end; ++split) {
    const int64_t begin = std::max(positions.begin, split * kAttentionSplitPositions);
    const int64_t end = std::min(positions.end, (split + 1) * kAttentionSplitPositions);
    const int64_t size = end - begin;
    const int64_t kv_head = (offset + size / 2) / size;
    if (kv_head < kv_heads) {
      if (split == splits.begin && kv_head == 0) return {.row = row};
      return {row, split, kv_head, /*inside=*/true};
    }
    offset = std::max<int64_t>(0, offset - size * kv_heads);
  }
  return {.row = row + 1};
}

}  // namespace

void CutAttention(std::span<const AttentionRow> rows, int64_t kv_heads, std::span<AttentionCut> cuts) {
  SHOAL_CHECK(cuts.size() >= 2 && kv_heads > 0);
  const auto parts = static_cast<int64_t>(cuts.size()) - 1;
  int64_t total = 0;
  for (const AttentionRow& row : rows) total += row.positions.size() * kv_heads;
  int64_t row = 0;
  int64_t before = 0;  // Of the rows before `row`.
  for (int64_t part = 0; part <= parts; ++part) {
    const int64_t target = total / parts * part + total % parts * part / parts;
    const auto size = [&] { return rows[static_cast<size_t>(row)].positions.size() * kv_heads; };
    while (row < static_cast<int64_t>(rows.size()) && before + size() <= target) {
      before += size();
      ++row;
    }
    AttentionCut& cut = cuts[static_cast<size_t>(part)];
    const int64_t offset = target - before;
    if (offset == 0) {
      cut = {.row = row};
    } else if (size() * parts * kRowsLeftWhole < total) {
      cut = {.row = 2 * offset < size() ? row : row + 1};
    } else {
      cut = CutRow(row, rows[static_cast<size_t>(row)].positions, kv_heads, offset);
    }
  }
}

}  // namespace shoal
