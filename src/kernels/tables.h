// What the file of each instruction set exports: its table.
#pragma once

#include "kernels/kernels.h"

namespace shoal {

const Kernels& ReferenceKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
const Kernels& AvxVnniKernels();  ///< In avx2.cpp, too.
const Kernels& Avx512Kernels();
const Kernels& AmxKernels();
#elif defined(__aarch64__)
const Kernels& NeonKernels();
const Kernels& NeonDotprodKernels();
const Kernels& NeonI8mmKernels();
#endif

}  // namespace shoal
