// Packs the 16 rows of a tile at once, the hot loop of loading a model. The bytes are the same as from
// packing row by row (packed.cpp), which serves the single rows of slices and permutations.
#pragma once

#include <cstdint>

#include "numeric/affine.h"

namespace shoal {

/// Packs rows [first_row, first_row + 16) of `source` into `tile`, in the layout of packed.h.
void PackAffineTile(const AffineView& source, int64_t first_row, uint8_t* tile);

/// Transposes 16 rows of `cols` elements into `tile`, [cols][16]. size: 2 or 4 bytes per element; stride:
/// elements from one row to the next.
void PackFloatTile(const uint8_t* rows, int64_t stride, int64_t cols, int64_t size, uint8_t* tile);

}  // namespace shoal
