// Lossless short form of 64-bit fixed-point rows for the wire: the low `width` bytes of every value, byte 0
// of all values first, then byte 1, and so on (planes of high bytes are nearly constant, should a link
// compress).
#pragma once

#include <cstdint>

namespace shoal {

inline constexpr int kBytePlanesMin = 4;
inline constexpr int kBytePlanesMax = 8;

/// Bytes per element, 4 to 8, from which all of values[0, n) come back by sign extension.
int BytePlanesWidth(const int64_t* values, int64_t n);

/// Writes n * width bytes. width >= BytePlanesWidth(values, n).
void EncodeBytePlanes(const int64_t* values, int64_t n, int width, uint8_t* out);

/// The inverse; reads n * width bytes. width in [kBytePlanesMin, kBytePlanesMax], as the caller has checked.
void DecodeBytePlanes(const uint8_t* in, int64_t n, int width, int64_t* values);

}  // namespace shoal
