// The one symbol that each instruction set's file exports.
#pragma once

#include "kernels/kernels.h"

namespace shoal {

const Kernels& ReferenceKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
#endif

}  // namespace shoal
