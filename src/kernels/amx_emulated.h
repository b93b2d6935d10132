// matmul_affine of AMX on emulated tiles, for tests.
#pragma once

#include "kernels/kernels.h"

namespace shoal {

/// The matmul_affine of "amx", but on tiles for any number of rows. Slow. Needs the instructions of "avx512".
void MatmulOnEmulatedTiles(const MatmulAffineArgs& args);

}  // namespace shoal
