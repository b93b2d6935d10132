// AVX-512 with VNNI; lane_avx512_kernels.inc has the kernels. Exports Avx512Kernels alone; all else is local to this file,
// since it may run only on CPUs that have these instructions.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

/// Zen 4 multiplies 256 bits at a time, and broadcasts into registers take its pipes. Intel's CPUs without AMX run this
/// table as well; they were not measured.
constexpr bool kSplatsInOperands = true;
#include "kernels/lane_avx512_kernels.inc"

}  // namespace

const Kernels& Avx512Kernels() { return kTable; }

}  // namespace shoal
