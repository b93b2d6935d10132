// What the files of the instruction sets share: how float products are summed. What each exports: its table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace shoal {

/// matmul_float sums blocks of this many columns, which begin at its multiples; the last may be shorter. The sum of a
/// block is one chain acc = fma(w[n, k], x[t, k], acc) over its ascending k, from 0. An element is the first block's sum,
/// to which those of the others are added in ascending order. So the chains of blocks do not depend on one another.
inline constexpr int64_t kFloatBlockColumns = 256;

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
