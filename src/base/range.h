// Half-open ranges [begin, end).
#pragma once

#include <algorithm>
#include <cstdint>

namespace shoal {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;

  constexpr int64_t size() const { return end - begin; }
  constexpr bool empty() const { return end <= begin; }
  constexpr bool contains(int64_t i) const { return begin <= i && i < end; }
  constexpr bool operator==(const Range&) const = default;
};

/// Sub-range `i` of `n` of [0, size), cut at multiples of `unit`. Sizes differ by at most one unit. A pure
/// function, so that every thread and every node cuts alike.
constexpr Range StaticRange(int64_t size, int64_t unit, int i, int n) {
  const int64_t units = (size + unit - 1) / unit;
  return {std::min(size, units * i / n * unit), std::min(size, units * (i + 1) / n * unit)};
}

}  // namespace shoal
