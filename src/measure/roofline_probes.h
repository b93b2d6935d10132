// The loops behind MeasureRoofline. One file per architecture defines them; CMakeLists.txt picks it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace shoal {

/// A loop over one sequence of instructions, with enough independent chains to hide its latency.
struct RateProbe {
  std::string_view how;
  bool (*available)();
  int64_t ops_per_round;
  void (*run)(int64_t rounds);
};

/// Reads every cache line of [data, data + bytes) once; both are multiples of kReadStep.
struct ReadProbe {
  bool (*available)();
  void (*run)(const std::byte* data, int64_t bytes);
};
inline constexpr int64_t kReadStep = 512;

// Fastest first: the first that is available is the bound.
std::span<const RateProbe> Int8Probes();
/// Counts the 8-bit operations alone; see Roofline::scaled_gops.
std::span<const RateProbe> ScaledInt8Probes();
std::span<const RateProbe> TileProbes();
std::span<const RateProbe> FmaProbes();

/// Which of them is fastest depends on the machine's prefetchers: all that are available are tried.
std::span<const ReadProbe> ReadProbes();

}  // namespace shoal
