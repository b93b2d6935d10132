// The blocks of a slice as the layers of a stage take them.
#pragma once

#include <algorithm>
#include <span>

#include "base/ids.h"
#include "cpu/arena.h"
#include "exec/step.h"

namespace shoal {

/// Layers read nothing behind their windows, where a slice has no block: any id may stand there. In `scratch`, or the
/// slice's own table where it has no gaps.
inline std::span<const BlockId> TableFor(const SeqSlice& slice, Arena& scratch) {
  if (std::ranges::find(slice.blocks, kNoBlock) == slice.blocks.end()) return slice.blocks;
  const std::span<BlockId> table = scratch.allocate<BlockId>(std::ssize(slice.blocks));
  std::ranges::replace_copy(slice.blocks, table.begin(), kNoBlock, BlockId{0});
  return table;
}

}  // namespace shoal
