// The matmul of lane_amx.inc on emulated tiles, for tests on CPUs without AMX. Needs AVX-512, as lane_amx.inc
// does. Exports MatmulOnEmulatedTiles alone.
#include "kernels/amx_emulated.h"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

constexpr bool kSplatsInOperands = true;  // Of no account: nothing here multiplies by a splat from memory.

#include "kernels/lane_amx.inc"

/// The interface of CpuTiles in amx.cpp. Whatever would raise an exception on a CPU fails a CHECK here.
/// Source: the pseudo-code of tileloadd, tilestored and tdpbsud in Intel's Software Developer's Manual,
/// volume 2.
class EmulatedTiles {
 public:
  void configure(int64_t rows, int64_t columns) {
    SHOAL_CHECK(1 <= rows && rows <= 16 && (columns == 32 || columns == 64));
    if (tiles_[0].rows == rows && tiles_[4].row_bytes == columns) return;
    // A new configuration fills all tiles with garbage, so that code that relies on their contents fails.
    for (Tile& tile : tiles_) {
      tile = {};
      std::memset(tile.bytes, 0x5a, sizeof(tile.bytes));
    }
    for (const int c : {0, 1, 2, 3}) set(c, rows, 64);
    set(4, rows, columns);
    for (const int b : {6, 7}) set(b, columns / 4, 64);
  }
  template <int kTile>
  void zero() {
    std::memset(at(kTile).bytes, 0, sizeof(Tile::bytes));
  }
  template <int kTile>
  void load(const void* data, int64_t stride) {
    Tile& tile = at(kTile);
    std::memset(tile.bytes, 0, sizeof(tile.bytes));
    for (int64_t row = 0; row < tile.rows; ++row) {
      std::memcpy(tile.bytes[row], static_cast<const uint8_t*>(data) + row * stride,
                  static_cast<size_t>(tile.row_bytes));
    }
  }
  template <int kTile>
  void store(void* data, int64_t stride) {
    const Tile& tile = at(kTile);
    for (int64_t row = 0; row < tile.rows; ++row) {
      std::memcpy(static_cast<uint8_t*>(data) + row * stride, tile.bytes[row],
                  static_cast<size_t>(tile.row_bytes));
    }
  }
  template <int kC, int kA, int kB>
  void dot() {
    const Tile& a = at(kA);
    const Tile& b = at(kB);
    Tile& c = at(kC);
    SHOAL_CHECK(a.rows == c.rows);
    SHOAL_CHECK(b.row_bytes == c.row_bytes);
    SHOAL_CHECK(a.row_bytes == 4 * b.rows);
    for (int64_t m = 0; m < c.rows; ++m) {
      for (int64_t n = 0; n < c.row_bytes / 4; ++n) {
        int32_t sum;
        std::memcpy(&sum, c.bytes[m] + 4 * n, 4);
        for (int64_t k = 0; k < a.row_bytes; ++k) {
          sum += static_cast<int8_t>(a.bytes[m][k]) * static_cast<int32_t>(b.bytes[k / 4][4 * n + k % 4]);
        }
        std::memcpy(c.bytes[m] + 4 * n, &sum, 4);
      }
    }
  }

 private:
  struct Tile {
    int64_t rows = 0;
    int64_t row_bytes = 0;
    uint8_t bytes[16][64] = {};
  };

  void set(int tile, int64_t rows, int64_t bytes) {
    tiles_[tile].rows = rows;
    tiles_[tile].row_bytes = bytes;
  }
  Tile& at(int tile) {
    SHOAL_CHECK(tiles_[tile].rows > 0);
    return tiles_[tile];
  }

  Tile tiles_[8];
};

}  // namespace

void MatmulOnEmulatedTiles(const MatmulAffineArgs& args) {
  if (args.w.format.group == kHalfPanelGroup)
    return Avx512Kernels().matmul_affine(
        args);  // amx.cpp gives these to AmxVectorKernels, whose bits are the same.
  EmulatedTiles tiles;
  MultiplyOnTiles(tiles, args);
}

}  // namespace shoal
