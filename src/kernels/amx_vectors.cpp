// The kernels of AVX-512 for CPUs with AMX, all of which are Intel's and multiply 512 bits on two pipes. amx.cpp adds
// products on tiles. Exports AmxVectorKernels alone.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

/// An operand that is broadcast from memory keeps the two pipes waiting for the loads; a register serves several products.
/// Products of 128 rows with f32 weights reach 146 GFLOP/s on one thread instead of 107, with bf16 weights 147 instead of
/// 121, attention of 64 rows to 2,048 positions of f16 123 instead of 112 (kernels_bench on a Xeon with AMX whose peak is
/// 214, beside compilers).
constexpr bool kSplatsInOperands = false;
#include "kernels/lane_avx512_kernels.inc"

}  // namespace

const Kernels& AmxVectorKernels() { return kTable; }

}  // namespace shoal
