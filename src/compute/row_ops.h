// Plain passes over rows of activations, on the calling thread.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "base/range.h"
#include "numeric/view.h"

namespace shoal {

/// Whether `rows` of x hold neither NaN nor infinity: all bits of an exponent set. An integer test, so that it
/// vectorizes and never depends on float modes.
inline bool AllFinite(MatView<const float> x, Range rows) {
  constexpr uint32_t kExponent = 0x7f800000u;
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* row = x.row(r);
    uint32_t bad = 0;
    for (int64_t c = 0; c < x.cols; ++c)
      bad |= (std::bit_cast<uint32_t>(row[c]) & kExponent) == kExponent ? 1u : 0u;
    if (bad != 0) return false;
  }
  return true;
}

/// To rows [first, first + from.rows) of `to`, which may be those of `from` or lie before them.
inline void CopyRows(MatView<const float> from, MatView<float> to, int64_t first) {
  for (int64_t r = 0; r < from.rows; ++r) {
    std::memmove(to.row(first + r), from.row(r), static_cast<size_t>(from.cols) * sizeof(float));
  }
}

inline void FillRows(MatView<float> x, float value, Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) std::fill_n(x.row(r), x.cols, value);
}

/// A NaN stays one.
inline void Clamp(MatView<float> x, float least, float most, Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* row = x.row(r);
    for (int64_t c = 0; c < x.cols; ++c) row[c] = std::clamp(row[c], least, most);
  }
}

inline void Multiply(MatView<float> x, float scale, Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* row = x.row(r);
    for (int64_t c = 0; c < x.cols; ++c) row[c] *= scale;
  }
}

/// y *= x, element by element.
inline void MultiplyRows(MatView<const float> x, MatView<float> y, Range rows) {
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    const float* by = x.row(r);
    float* row = y.row(r);
    for (int64_t c = 0; c < y.cols; ++c) row[c] *= by[c];
  }
}

}  // namespace shoal
