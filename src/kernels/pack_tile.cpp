// Bound: memory. Each byte is read once and written once, into pages that the operating system has just
// zeroed. The compiler's portable vectors (SSE2 or NEON, without intrinsics or flags) reach 6 to 8 GB/s from
// cache and, with the next tile prefetched, hardly less from memory (4 bits, one thread; a copy reaches 12).
// So there is one version for all instruction sets. A vector holds one 32-bit word of each of four rows, the
// layout of a quarter of a register in packed.h.
#include "kernels/pack_tile.h"

#include <bit>
#include <cstring>
#include <utility>

#include "kernels/packed.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kRegisterBytes = 64;
constexpr int64_t kCacheLine = 64;
constexpr int kBlocks = kPanelCols / 4;  ///< 4-column blocks of a panel.
constexpr int kLanes = 4;                ///< Rows of a vector.

using Words = uint32_t __attribute__((vector_size(16)));  ///< One word of each of four rows.

uint32_t LoadWord(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return word;
}
void StoreWords(uint8_t* at, Words words) { std::memcpy(at, &words, 16); }

/// Calls f(integral_constant<int, i>) for i in [0, kN): a loop with a constant index, for shifts.
template <int kN, typename F>
void Unrolled(F&& f) {
  [&]<int... kI>(std::integer_sequence<int, kI...>) { (f(std::integral_constant<int, kI>()), ...); }
  (std::make_integer_sequence<int, kN>());
}

/// Spreads four codes in the low 4 * kBits bits to one byte each: first the pairs move apart, then their
/// halves.
template <int kBits>
Words SpreadCodes(Words x) {
  constexpr uint32_t kCode = (1u << kBits) - 1;
  constexpr uint32_t kPair = (1u << 2 * kBits) - 1;
  if constexpr (kBits == 8) return x;
  x = (x & kPair) | (x << (16 - 2 * kBits) & kPair << 16);
  return (x & kCode * 0x00010001u) | (x << (8 - kBits) & kCode * 0x01000100u);
}

/// 4-column block kBlock of a panel, whose 4 * kBits bits begin at bit 4 * kBits * kBlock of the row's
/// stream.
template <int kBits, int kBlock>
Words BlockOf(const Words (&stream)[kBits]) {
  constexpr int kWidth = 4 * kBits;
  constexpr int kWord = kWidth * kBlock / 32;
  constexpr int kShift = kWidth * kBlock % 32;
  Words field = stream[kWord] >> kShift;
  if constexpr (kShift + kWidth > 32) field |= stream[kWord + 1] << (32 - kShift);
  if constexpr (kBits < 8) field &= (uint32_t{1} << kWidth % 32) - 1;
  return SpreadCodes<kBits>(field);
}

/// Stores the plane of bits [kFrom, kFrom + kWidth) of every code; a register takes 8 / kWidth blocks.
template <int kFrom, int kWidth>
uint8_t* StorePlane(const Words (&blocks)[kBlocks], uint8_t* plane) {
  constexpr int kPerRegister = 8 / kWidth;
  constexpr uint32_t kMask = 0x01010101u * ((1u << kWidth) - 1);
  Unrolled<kBlocks / kPerRegister>([&](auto r) {
    Words word = {};
    Unrolled<kPerRegister>(
        [&](auto i) { word |= ((blocks[r * kPerRegister + i] >> kFrom) & kMask) << (kWidth * i); });
    StoreWords(plane + r * kRegisterBytes, word);
  });
  return plane + kBlocks / kPerRegister * kRegisterBytes;
}

Words InterleaveLow(Words a, Words b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
Words InterleaveHigh(Words a, Words b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }

/// Loads the next kBits words of each of four rows; out[w] has word w of each row. Four words at a time are
/// loaded as a square and transposed.
template <int kBits>
void LoadStreams(const uint8_t* const (&streams)[kLanes], int64_t offset, Words (&out)[kBits]) {
  constexpr int kSquares = kBits / kLanes * kLanes;
  for (int w = 0; w < kSquares; w += kLanes) {
    Words rows[kLanes];
    Unrolled<kLanes>([&](auto i) { std::memcpy(&rows[i], streams[i] + offset + 4 * w, sizeof(Words)); });
    const Words even_low = InterleaveLow(rows[0], rows[2]), odd_low = InterleaveLow(rows[1], rows[3]);
    const Words even_high = InterleaveHigh(rows[0], rows[2]), odd_high = InterleaveHigh(rows[1], rows[3]);
    out[w] = InterleaveLow(even_low, odd_low);
    out[w + 1] = InterleaveHigh(even_low, odd_low);
    out[w + 2] = InterleaveLow(even_high, odd_high);
    out[w + 3] = InterleaveHigh(even_high, odd_high);
  }
  for (int w = kSquares; w < kBits; ++w) {
    const int64_t at = offset + 4 * w;
    out[w] = Words{LoadWord(streams[0] + at), LoadWord(streams[1] + at), LoadWord(streams[2] + at),
                   LoadWord(streams[3] + at)};
  }
}

/// Reorders eight codes of 4 bits from 01234567 (lowest bits first) to the order of a register, 04152637.
/// This rotates the three bits of a code's index by one. It takes two exchanges: of the middle bytes, then of
/// the middle codes of each half.
Words ShuffleNibbles(Words x) {
  const Words bytes = (x ^ (x >> 8)) & 0x0000FF00u;
  x ^= bytes ^ (bytes << 8);
  const Words codes = (x ^ (x >> 4)) & 0x00F000F0u;
  return x ^ codes ^ (codes << 4);
}

/// Packs 32 columns of four rows. streams: the bits of the rows; out: the panel, at the lane of the first
/// row.
template <int kBits>
void PackPanel(const uint8_t* const (&streams)[kLanes], int64_t offset, uint8_t* out) {
  Words stream[kBits];
  LoadStreams<kBits>(streams, offset, stream);
  if constexpr (kBits == 4) {
    // A word of the stream holds two blocks, and so does a word of a register, so blocks need not be
    // separated.
    Unrolled<kBits>([&](auto w) { StoreWords(out + w * kRegisterBytes, ShuffleNibbles(stream[w])); });
  } else {
    Words blocks[kBlocks];
    Unrolled<kBlocks>([&](auto q) { blocks[q] = BlockOf<kBits, q>(stream); });
    if constexpr (kBits == 8) {
      Unrolled<kBlocks>([&](auto q) { StoreWords(out + q * kRegisterBytes, blocks[q]); });
    } else {
      // The planes of packed.h: 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1.
      constexpr int kFirst = kBits > 4 ? 4 : 2;
      out = StorePlane<0, kFirst>(blocks, out);
      if constexpr (kBits > kFirst) StorePlane<kFirst, kBits - kFirst>(blocks, out);
    }
  }
}

/// Writes element `col` of each of 16 rows, one after another.
template <int64_t kSize>
void PackColumn(const uint8_t* rows, int64_t row_bytes, int64_t col, uint8_t* out) {
  for (int64_t row = 0; row < kTileRows; ++row) {
    std::memcpy(out + row * kSize, rows + row * row_bytes + col * kSize, kSize);
  }
}

template <int kBits, int64_t kScaleSize>
void PackTile(const AffineView& source, int64_t first_row, uint8_t* record) {
  const int64_t row_bytes = source.words_per_row() * 4;
  const int64_t groups = source.groups_per_row();
  const int64_t panels = AffineSpan(source.group) / kPanelCols;
  const int64_t together = AffineGroupsTogether(source.group);
  const auto* words = static_cast<const uint8_t*>(source.words) + first_row * row_bytes;
  const auto* scales = static_cast<const uint8_t*>(source.scales) + first_row * groups * kScaleSize;
  const auto* biases = static_cast<const uint8_t*>(source.biases) + first_row * groups * kScaleSize;
  // Sixteen streams are too many for the hardware prefetcher, so the next tile is prefetched as one run of
  // memory, a chunk per panel.
  const bool is_last = first_row + 2 * kTileRows > source.rows;
  const uint8_t* ahead = is_last ? words : words + kTileRows * row_bytes;
  constexpr int64_t kChunk = kTileRows * 4 * kBits;
  int64_t offset = 0;
  for (int64_t first = 0; first < groups; first += together) {
    for (int64_t panel = 0; panel < panels; ++panel, ahead += kChunk, offset += 4 * kBits) {
      for (int64_t at = 0; at < kChunk; at += kCacheLine) __builtin_prefetch(ahead + at);
      for (int lane = 0; lane < kTileRows; lane += kLanes) {
        const uint8_t* const rows = words + lane * row_bytes;
        const uint8_t* const streams[kLanes] = {rows, rows + row_bytes, rows + 2 * row_bytes,
                                                rows + 3 * row_bytes};
        PackPanel<kBits>(streams, offset, record + 4 * lane);
      }
      record += kBits * kRegisterBytes;
    }
    for (int64_t group = first; group < first + together; ++group) {
      PackColumn<kScaleSize>(scales, groups * kScaleSize, group, record);
      PackColumn<kScaleSize>(biases, groups * kScaleSize, group, record + kTileRows * kScaleSize);
      record += 2 * kTileRows * kScaleSize;
    }
  }
}

template <int kBits>
void PackTileOf(const AffineView& source, int64_t first_row, uint8_t* tile) {
  if (DTypeBytes(source.scale_dtype) == 4) return PackTile<kBits, 4>(source, first_row, tile);
  PackTile<kBits, 2>(source, first_row, tile);
}

using Halves = uint16_t __attribute__((vector_size(16)));

Halves InterleaveLow(Halves a, Halves b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
Halves InterleaveHigh(Halves a, Halves b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

/// A perfect shuffle of the elements of 16 vectors: interleaves the first half with the second.
template <typename Vector>
void Shuffle(const Vector (&in)[kTileRows], Vector (&out)[kTileRows]) {
  Unrolled<kTileRows / 2>([&](auto i) {
    out[2 * i] = InterleaveLow(in[i], in[i + kTileRows / 2]);
    out[2 * i + 1] = InterleaveHigh(in[i], in[i + kTileRows / 2]);
  });
}

/// Transposes [16][cols] to [cols][16] for the columns that fill vectors; returns their number. An element's
/// index is row * width + column. A perfect shuffle rotates the index by one bit, so four shuffles move the
/// four bits of the row to the bottom, which is the transpose.
template <typename Vector, int64_t kSize>
int64_t TransposeVectors(const uint8_t* rows, int64_t row_bytes, int64_t cols, uint8_t* tile) {
  constexpr int64_t kWidth = 16 / kSize;
  int64_t col = 0;
  for (; col + kWidth <= cols; col += kWidth) {
    Vector a[kTileRows], b[kTileRows];
    for (int64_t r = 0; r < kTileRows; ++r) std::memcpy(&a[r], rows + r * row_bytes + col * kSize, 16);
    Shuffle(a, b);
    Shuffle(b, a);
    Shuffle(a, b);
    Shuffle(b, a);
    std::memcpy(tile + col * kTileRows * kSize, a, sizeof(a));
  }
  return col;
}

template <typename Vector, int64_t kSize>
void PackFloats(const uint8_t* rows, int64_t stride, int64_t cols, uint8_t* tile) {
  const int64_t done = TransposeVectors<Vector, kSize>(rows, stride * kSize, cols, tile);
  for (int64_t col = done; col < cols; ++col) {
    PackColumn<kSize>(rows, stride * kSize, col, tile + col * kTileRows * kSize);
  }
}

}  // namespace

void PackFloatTile(const uint8_t* rows, int64_t stride, int64_t cols, int64_t size, uint8_t* tile) {
  SHOAL_CHECK(size == 2 || size == 4);
  if (size == 4) return PackFloats<Words, 4>(rows, stride, cols, tile);
  PackFloats<Halves, 2>(rows, stride, cols, tile);
}

void PackAffineTile(const AffineView& source, int64_t first_row, uint8_t* tile) {
  switch (source.bits) {
    case 2:
      return PackTileOf<2>(source, first_row, tile);
    case 3:
      return PackTileOf<3>(source, first_row, tile);
    case 4:
      return PackTileOf<4>(source, first_row, tile);
    case 5:
      return PackTileOf<5>(source, first_row, tile);
    case 6:
      return PackTileOf<6>(source, first_row, tile);
    default:
      SHOAL_CHECK_EQ(source.bits, 8);
      return PackTileOf<8>(source, first_row, tile);
  }
}

}  // namespace shoal
