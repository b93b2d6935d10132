// AMX: products of quantized weights and many rows on tile registers; lane_amx.inc describes them and their
// bound. All other kernels, and products of few rows, are those of amx_vectors.cpp. Exports AmxKernels alone.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#include "numeric/fixed_sum.h"

namespace shoal {
namespace {

constexpr bool kSplatsInOperands = false;  // As in amx_vectors.cpp.

#include "kernels/lane_amx.inc"

/// The CPU's tiles: 0 to 3 are C, 4 is A, 6 and 7 are B. In assembly, because the intrinsics of some
/// compilers are macros that take only a literal as a tile. The "memory" clobbers tell the compiler that
/// memory is read and written through tiles.
class CpuTiles {
 public:
  CpuTiles() = default;
  CpuTiles(const CpuTiles&) = delete;
  CpuTiles& operator=(const CpuTiles&) = delete;
  /// Released tiles are in their initial state, which a thread switch does not save.
  ~CpuTiles() { asm volatile("tilerelease"); }

  /// Configures the tiles for `rows` rows of x and `columns` columns (32 or 64) at a time. A new
  /// configuration clears all tiles.
  void configure(int64_t rows, int64_t columns) {
    if (rows == rows_ && columns == columns_) return;
    rows_ = rows;
    columns_ = columns;
    Config config;
    for (const int c : {0, 1, 2, 3}) config.set(c, rows, 64);
    config.set(4, rows, columns);
    for (const int b : {6, 7}) config.set(b, columns / 4, 64);
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  template <int kTile>
  void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  void load(const void* data, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(data), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  void store(void* data, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(data), "r"(stride), "i"(kTile) : "memory");
  }
  /// C += A (signed) * B (unsigned).
  template <int kC, int kA, int kB>
  void dot() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }

 private:
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t tile_rows, int64_t bytes) {
      rows[tile] = static_cast<uint8_t>(tile_rows);
      row_bytes[tile] = static_cast<uint16_t>(bytes);
    }
  };
  static_assert(sizeof(Config) == 64);

  int64_t rows_ = 0;
  int64_t columns_ = 0;
};

/// With fewer rows vpdpbusd is about as fast. 16 x 64 products take it some 18 cycles per row; the tiles take 8 to 9 per
/// row after some 40 (from the rates in lane_amx.inc; the border itself was not measured).
constexpr int64_t kRowsMin = 6;

void matmul_affine(const MatmulAffineArgs& args) {
  // Two groups of 16 columns would be two products of a quarter of a tile each, and the vector operations that scale them,
  // which are the bound, would be as many as without tiles.
  if (args.x.rows < kRowsMin || args.w.format.group == kHalfPanelGroup)
    return AmxVectorKernels().matmul_affine(args);
  CpuTiles tiles;
  MultiplyOnTiles(tiles, args);
}

}  // namespace

const Kernels& AmxKernels() {
  static const Kernels table = [] {
    Kernels kernels = AmxVectorKernels();
    kernels.isa = Isa::kAmx;
    kernels.matmul_affine = matmul_affine;
    return kernels;
  }();
  return table;
}

}  // namespace shoal
