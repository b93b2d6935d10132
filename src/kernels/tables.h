// What the file of each instruction set exports: its table.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace shoal {

const Kernels& ReferenceKernels();
#if defined(__x86_64__)
const Kernels& Avx2Kernels();
const Kernels& AvxVnniKernels();  ///< In avx2.cpp, too.
const Kernels& Avx512Kernels();
const Kernels& AmxVectorKernels();  ///< What AmxKernels has beside its products on tiles.
const Kernels& AmxKernels();
#elif defined(__aarch64__)
const Kernels& NeonKernels();
const Kernels& NeonDotprodKernels();
const Kernels& NeonI8mmKernels();
#endif

/// Why no vector kernels run on this CPU, which lacks `lacking` (names as in the CPU's manual): too old, or, in a
/// virtual machine, hidden by its host. FailedPrecondition.
absl::Status LacksVectors(const std::vector<std::string>& lacking, bool in_virtual_machine);

}  // namespace shoal
