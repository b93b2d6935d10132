// The matmul of AMX on emulated tiles, for tests.
#pragma once

#include "kernels/kernels.h"

namespace shoal {

/// As the matmul_affine of "amx", without leaving few rows to "avx512". Slow. Needs what "avx512" needs.
void MatmulOnEmulatedTiles(const MatmulAffineArgs& args);

}  // namespace shoal
