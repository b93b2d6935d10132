// The loops of RooflineMeter. One file per architecture defines them; CMakeLists.txt selects it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/kernels.h"

namespace shoal {

/// A loop of arithmetic instructions, in enough independent chains to hide their latency.
struct RateProbe {
  std::string_view how;
  bool (*available)();
  Isa isa;  ///< The least set of kernels that may use these instructions.
  int64_t ops_per_round;
  void (*run)(int64_t rounds);
};

/// Reads every cache line of [data, data + bytes) once; both are multiples of kReadStep.
struct ReadProbe {
  bool (*available)();
  void (*run)(const std::byte* data, int64_t bytes);
};
inline constexpr int64_t kReadStep = 512;

// Fastest first: the first probe that is available and that the chosen kernels may use gives the bound.
std::span<const RateProbe> Int8Probes();
/// Counts the 8-bit operations alone; see Roofline::scaled_gops.
std::span<const RateProbe> ScaledInt8Probes();
/// For 8-bit weights, where they take other instructions than weights of fewer bits; with scales as well.
std::span<const RateProbe> WideProbes();
std::span<const RateProbe> TileProbes();
std::span<const RateProbe> FmaProbes();

/// All available probes are tried, since the machine's prefetchers decide which one is fastest.
std::span<const ReadProbe> ReadProbes();

}  // namespace shoal
