// Sixteen whole rows at once into their tile: what loading a model spends its time on. The bytes are those of
// packing row by row (packed.cpp); rows on their own, as slices and permutations need them, go that way.
#pragma once

#include <cstdint>

#include "numeric/affine.h"

namespace shoal {

/// Rows [first_row, first_row + 16) of `source` into `tile`, which has the layout of packed.h.
void PackAffineTile(const AffineView& source, int64_t first_row, uint8_t* tile);

/// Sixteen rows of `cols` elements of `size` bytes (2 or 4), `stride` elements apart, into `tile`:
/// [cols][16].
void PackFloatTile(const uint8_t* rows, int64_t stride, int64_t cols, int64_t size, uint8_t* tile);

}  // namespace shoal
