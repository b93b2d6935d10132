#include "numeric/byte_planes.h"

#include <cstring>

#include "base/check.h"

namespace shoal {
namespace {

/// Transposes 8 x 8 bytes: byte b of word i is swapped with byte i of word b. Takes 12 exchanges of halves,
/// pairs and single bytes.
void Transpose(uint64_t (&words)[8]) {
  constexpr uint64_t kMasks[] = {0x00000000ffffffff, 0x0000ffff0000ffff, 0x00ff00ff00ff00ff};
  int apart = 4;
  for (const uint64_t mask : kMasks) {
    for (int i = 0; i < 8; ++i) {
      if ((i & apart) != 0) continue;
      const uint64_t moved = ((words[i] >> (8 * apart)) ^ words[i + apart]) & mask;
      words[i + apart] ^= moved;
      words[i] ^= moved << (8 * apart);
    }
    apart /= 2;
  }
}

}  // namespace

int BytePlanesWidth(const int64_t* values, int64_t n) {
  uint64_t significant = 0;  // Bits that differ from the sign bit in any value.
  for (int64_t i = 0; i < n; ++i) significant |= static_cast<uint64_t>(values[i] ^ (values[i] >> 63));
  int width = kBytePlanesMin;
  while (width < kBytePlanesMax && (significant >> (8 * width - 1)) != 0) ++width;
  return width;
}

void EncodeBytePlanes(const int64_t* values, int64_t n, int width, uint8_t* out) {
  SHOAL_CHECK(kBytePlanesMin <= width && width <= kBytePlanesMax);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t words[8];
    std::memcpy(words, values + i, sizeof(words));
    Transpose(words);
    for (int byte = 0; byte < width; ++byte) std::memcpy(out + byte * n + i, &words[byte], 8);
  }
  for (; i < n; ++i) {
    for (int byte = 0; byte < width; ++byte)
      out[byte * n + i] = static_cast<uint8_t>(values[i] >> (8 * byte));
  }
}

void DecodeBytePlanes(const uint8_t* in, int64_t n, int width, int64_t* values) {
  SHOAL_CHECK(kBytePlanesMin <= width && width <= kBytePlanesMax);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t words[8];
    for (int byte = 0; byte < width; ++byte) std::memcpy(&words[byte], in + byte * n + i, 8);
    const uint64_t signs = ((words[width - 1] >> 7) & 0x0101010101010101) * 0xff;
    for (int byte = width; byte < 8; ++byte) words[byte] = signs;
    Transpose(words);
    std::memcpy(values + i, words, sizeof(words));
  }
  for (; i < n; ++i) {
    // The highest byte sign-extends.
    uint64_t value = static_cast<uint64_t>(int64_t{static_cast<int8_t>(in[(width - 1) * n + i])});
    for (int byte = width - 2; byte >= 0; --byte) value = (value << 8) | in[byte * n + i];
    values[i] = static_cast<int64_t>(value);
  }
}

}  // namespace shoal
