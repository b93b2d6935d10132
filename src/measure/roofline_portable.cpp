// The probes of roofline_x86.cpp for any other architecture: plain loops, compiled as the reference kernels
// are, which are the only kernels of such a machine.
#include <cmath>

#include "measure/roofline_probes.h"

namespace shoal {
namespace {

bool Always() { return true; }

constexpr int64_t kChains = 16;

/// Adds a * b to sixteen sums in turn. The empty asm makes operands unknown to the compiler, and results
/// used.
template <typename T, T (*multiply_add)(T, T, T)>
void Chains(int64_t rounds) {
  T a = 3;
  T b = 5;
  T sums[kChains] = {};
  asm volatile("" : "+m"(a), "+m"(b));
  for (int64_t i = 0; i < rounds; ++i) {
    for (T& sum : sums) sum = multiply_add(a, b, sum);
  }
  asm volatile("" : : "m"(sums));
}

uint32_t MultiplyAdd(uint32_t a, uint32_t b, uint32_t sum) { return a * b + (sum ^ a); }
float FusedMultiplyAdd(float a, float b, float sum) { return std::fma(a, b, sum); }

void ReadLines(const std::byte* data, int64_t bytes) {
  const auto* const words = reinterpret_cast<const volatile uint64_t*>(data);
  for (int64_t i = 0; i < bytes / 8; ++i) (void)words[i];
}

constexpr RateProbe kInt8[] = {
    {"scalar code", Always, Isa::kReference, 2 * kChains, Chains<uint32_t, MultiplyAdd>}};
constexpr RateProbe kFma[] = {
    {"scalar code", Always, Isa::kReference, 2 * kChains, Chains<float, FusedMultiplyAdd>}};
constexpr ReadProbe kReads[] = {{Always, ReadLines}};

}  // namespace

std::span<const RateProbe> Int8Probes() { return kInt8; }
std::span<const RateProbe> ScaledInt8Probes() { return {}; }
std::span<const RateProbe> WideProbes() { return {}; }
std::span<const RateProbe> TileProbes() { return {}; }
std::span<const RateProbe> FmaProbes() { return kFma; }
std::span<const ReadProbe> ReadProbes() { return kReads; }

}  // namespace shoal
