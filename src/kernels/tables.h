// The one symbol that each instruction set's file exports.
#pragma once

#include "kernels/kernels.h"

namespace shoal {

const Kernels& ReferenceKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
const Kernels& Avx512Kernels();
const Kernels& AmxKernels();
#elif defined(__aarch64__)
const Kernels& NeonKernels();
const Kernels& NeonDotprodKernels();
const Kernels& NeonI8mmKernels();
#endif

}  // namespace shoal
