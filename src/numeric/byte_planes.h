// Lossless compression of 64-bit fixed-point rows for the wire: the low `width` bytes of every value, stored
// as byte 0 of all values, then byte 1 of all values, and so on. The planes of high bytes are nearly
// constant, which helps a link that compresses.
#pragma once

#include <cstdint>

namespace shoal {

inline constexpr int kBytePlanesMin = 4;
inline constexpr int kBytePlanesMax = 8;

/// The smallest width, 4 to 8 bytes, from which sign extension restores all of values[0, n).
int BytePlanesWidth(const int64_t* values, int64_t n);

/// Writes n * width bytes. width >= BytePlanesWidth(values, n).
void EncodeBytePlanes(const int64_t* values, int64_t n, int width, uint8_t* out);

/// The inverse: reads n * width bytes. The caller checks that width is in [kBytePlanesMin, kBytePlanesMax].
void DecodeBytePlanes(const uint8_t* in, int64_t n, int width, int64_t* values);

}  // namespace shoal
