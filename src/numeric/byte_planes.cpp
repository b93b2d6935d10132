#include "numeric/byte_planes.h"

#include "base/check.h"

namespace shoal {

int BytePlanesWidth(const int64_t* values, int64_t n) {
  uint64_t significant = 0;  // Bits that differ from the sign bit in any value.
  for (int64_t i = 0; i < n; ++i) significant |= static_cast<uint64_t>(values[i] ^ (values[i] >> 63));
  int width = kBytePlanesMin;
  while (width < kBytePlanesMax && (significant >> (8 * width - 1)) != 0) ++width;
  return width;
}

void EncodeBytePlanes(const int64_t* values, int64_t n, int width, uint8_t* out) {
  SHOAL_CHECK(kBytePlanesMin <= width && width <= kBytePlanesMax);
  for (int byte = 0; byte < width; ++byte) {
    for (int64_t i = 0; i < n; ++i) *out++ = static_cast<uint8_t>(values[i] >> (8 * byte));
  }
}

void DecodeBytePlanes(const uint8_t* in, int64_t n, int width, int64_t* values) {
  SHOAL_CHECK(kBytePlanesMin <= width && width <= kBytePlanesMax);
  for (int64_t i = 0; i < n; ++i) values[i] = static_cast<int8_t>(in[(width - 1) * n + i]);  // Sign-extends.
  for (int byte = width - 2; byte >= 0; --byte) {
    for (int64_t i = 0; i < n; ++i) {
      values[i] = static_cast<int64_t>((static_cast<uint64_t>(values[i]) << 8) | in[byte * n + i]);
    }
  }
}

}  // namespace shoal
