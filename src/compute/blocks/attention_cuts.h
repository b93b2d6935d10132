// How the attention of a step is cut over threads: by the positions that are read and not by rows, as one row
// may see a hundred times what another does.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/kernels.h"

namespace shoal {

/// A place on the line of cells. A cell is what one kv head reads of one split (512 positions) for one row;
/// cells lie row by row, in a row split by split, in a split head by head, which is the order of memory.
struct AttentionCut {
  int64_t row = 0;
  int64_t split = 0;  ///< Of AttentionSplits(positions of the row).
  int64_t kv_head = 0;
  bool inside = false;  ///< Within the row: cells of it lie on both sides.

  bool operator==(const AttentionCut&) const = default;
};

/// Part i of cuts.size() - 1 is what lies between cuts[i] and cuts[i + 1]; the parts have the same number of
/// positions, up to half a cell and half a sixteenth of a part. A row that is less than that sixteenth is
/// left whole: rows of one sequence are read together, and partial results have to be merged. A function of
/// shapes alone.
void CutAttention(std::span<const AttentionRow> rows, int64_t kv_heads, std::span<AttentionCut> cuts);

}  // namespace shoal
