#include "kernels/packed.h"

#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "kernels/pack_tile.h"

namespace shoal {
namespace {

// Codes are copied as 32-bit words whose lowest byte is the first column.
static_assert(std::endian::native == std::endian::little);

constexpr int64_t kBlocksPerPanel = kPanelCols / 4;
constexpr int64_t kRegisterBytes = 64;

/// Sizes in the record of 16 rows and one group, or two groups of 16 columns.
struct RecordLayout {
  int64_t panels = 0;
  int64_t groups = 0;
  int64_t code_bytes = 0;
  int64_t scale_bytes = 0;  ///< Of 16 scales; the 16 biases take as many.
  int64_t bytes() const { return code_bytes + groups * 2 * scale_bytes; }
};

RecordLayout LayoutOf(const PackedFormat& format) {
  const int64_t span = AffineSpan(format.group);
  return {.panels = span / kPanelCols,
          .groups = AffineGroupsTogether(format.group),
          .code_bytes = format.bits * kRegisterBytes * (span / kPanelCols),
          .scale_bytes = kTileRows * DTypeBytes(format.dtype)};
}

void CheckFormat(const PackedFormat& format, int64_t cols) {
  SHOAL_CHECK(IsFloatWeight(format.dtype));
  if (format.affine()) {
    SHOAL_CHECK(IsAffineForm(format.bits, format.group) && cols % AffineSpan(format.group) == 0);
  } else {
    SHOAL_CHECK_EQ(format.group, 0);
  }
}

int64_t TileBytes(const PackedFormat& format, int64_t cols) {
  if (!format.affine()) return cols * kTileRows * DTypeBytes(format.dtype);
  return cols / AffineSpan(format.group) * LayoutOf(format).bytes();
}

uint32_t LoadWord(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return word;
}
void StoreWord(uint8_t* at, uint32_t word) { std::memcpy(at, &word, 4); }

/// Unpacks one row's 32 codes of a panel to 8 words, each with the 4 bytes of a block. `stream` holds 4 *
/// bits bytes.
void UnpackStream(const uint8_t* stream, int bits, uint32_t blocks[kBlocksPerPanel]) {
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  uint64_t window = 0;
  int filled = 0;
  for (int64_t block = 0; block < kBlocksPerPanel; ++block) {
    uint32_t word = 0;
    if (filled < 4 * bits) {
      window |= static_cast<uint64_t>(LoadWord(stream)) << filled;
      stream += 4;
      filled += 32;
    }
    for (int column = 0; column < 4; ++column) {
      word |= static_cast<uint32_t>(window & mask) << (8 * column);
      window >>= bits;
    }
    filled -= 4 * bits;
    blocks[block] = word;
  }
}

/// Stores bits [shift, shift + kWidth) of every code as one plane, whose registers take 8 / kWidth blocks
/// each.
/// Returns the end of the plane.
template <int kWidth>
uint8_t* StorePlane(const uint32_t blocks[kBlocksPerPanel], int shift, int lane, uint8_t* plane) {
  constexpr int kPerRegister = 8 / kWidth;
  constexpr uint32_t kMask = 0x01010101u * ((1u << kWidth) - 1);
  for (int64_t first = 0; first < kBlocksPerPanel; first += kPerRegister) {
    uint32_t word = 0;
    for (int i = 0; i < kPerRegister; ++i) word |= ((blocks[first + i] >> shift) & kMask) << (kWidth * i);
    StoreWord(plane + 4 * lane, word);
    plane += kRegisterBytes;
  }
  return plane;
}

template <int kWidth>
const uint8_t* LoadPlane(const uint8_t* plane, int shift, int lane, uint32_t blocks[kBlocksPerPanel]) {
  constexpr int kPerRegister = 8 / kWidth;
  constexpr uint32_t kMask = 0x01010101u * ((1u << kWidth) - 1);
  for (int64_t first = 0; first < kBlocksPerPanel; first += kPerRegister) {
    const uint32_t word = LoadWord(plane + 4 * lane);
    for (int i = 0; i < kPerRegister; ++i) blocks[first + i] |= ((word >> (kWidth * i)) & kMask) << shift;
    plane += kRegisterBytes;
  }
  return plane;
}

/// Stores the codes of one row of a panel.
void StorePanel(const uint32_t blocks[kBlocksPerPanel], int bits, int lane, uint8_t* panel) {
  if (bits == 8) {
    StorePlane<8>(blocks, 0, lane, panel);
    return;
  }
  int shift = 0;
  if (bits >= 4) {
    panel = StorePlane<4>(blocks, shift, lane, panel);
    shift += 4;
  }
  if (bits - shift >= 2) {
    panel = StorePlane<2>(blocks, shift, lane, panel);
    shift += 2;
  }
  if (bits - shift == 1) StorePlane<1>(blocks, shift, lane, panel);
}

/// Stores elements of kSize bytes at every 16th place from `to` on.
template <int64_t kSize>
void StoreFloatRow(const uint8_t* from, int64_t cols, uint8_t* to) {
  for (int64_t col = 0; col < cols; ++col) {
    std::memcpy(to + col * kTileRows * kSize, from + col * kSize, kSize);
  }
}

void LoadPanel(const uint8_t* panel, int bits, int lane, uint32_t blocks[kBlocksPerPanel]) {
  for (int64_t block = 0; block < kBlocksPerPanel; ++block) blocks[block] = 0;
  if (bits == 8) {
    LoadPlane<8>(panel, 0, lane, blocks);
    return;
  }
  int shift = 0;
  if (bits >= 4) {
    panel = LoadPlane<4>(panel, shift, lane, blocks);
    shift += 4;
  }
  if (bits - shift >= 2) {
    panel = LoadPlane<2>(panel, shift, lane, blocks);
    shift += 2;
  }
  if (bits - shift == 1) LoadPlane<1>(panel, shift, lane, blocks);
}

/// Packs a single row. Whole tiles go through pack_tile.h, which is many times as fast.
void StoreAffineRow(const AffineView& source, int64_t source_row, int lane, uint8_t* record) {
  const PackedFormat format{source.scale_dtype, source.bits, source.group};
  const RecordLayout layout = LayoutOf(format);
  const int64_t scale_size = DTypeBytes(source.scale_dtype);
  const auto* stream =
      reinterpret_cast<const uint8_t*>(source.words) + source_row * source.words_per_row() * 4;
  const int64_t first_scale = source_row * source.groups_per_row();
  const auto* scales = static_cast<const uint8_t*>(source.scales) + first_scale * scale_size;
  const auto* biases = static_cast<const uint8_t*>(source.biases) + first_scale * scale_size;
  for (int64_t first = 0; first < source.groups_per_row(); first += layout.groups) {
    for (int64_t panel = 0; panel < layout.panels; ++panel) {
      uint32_t blocks[kBlocksPerPanel];
      UnpackStream(stream, source.bits, blocks);
      StorePanel(blocks, source.bits, lane, record + panel * source.bits * kRegisterBytes);
      stream += 4 * source.bits;
    }
    uint8_t* scale_lane = record + layout.code_bytes + lane * scale_size;
    for (int64_t group = first; group < first + layout.groups;
         ++group, scale_lane += 2 * layout.scale_bytes) {
      std::memcpy(scale_lane, scales + group * scale_size, static_cast<size_t>(scale_size));
      std::memcpy(scale_lane + layout.scale_bytes, biases + group * scale_size,
                  static_cast<size_t>(scale_size));
    }
    record += layout.bytes();
  }
}

}  // namespace

int64_t PackedBytes(PackedFormat format, int64_t rows, int64_t cols) {
  return (rows + kTileRows - 1) / kTileRows * TileBytes(format, cols);
}

absl::StatusOr<PackedMatrix> PackedMatrix::Allocate(PackedFormat format, int64_t rows, int64_t cols) {
  CheckFormat(format, cols);
  SHOAL_CHECK(rows >= 0 && cols >= 0);
  absl::StatusOr<std::shared_ptr<std::byte>> memory = SharedMemory(PackedBytes(format, rows, cols));
  if (!memory.ok()) return memory.status();
  return In(*std::move(memory), format, rows, cols);
}

PackedMatrix PackedMatrix::In(std::shared_ptr<std::byte> memory, PackedFormat format, int64_t rows,
                              int64_t cols) {
  CheckFormat(format, cols);
  PackedMatrix matrix;
  matrix.format_ = format;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  matrix.tile_bytes_ = TileBytes(format, cols);
  matrix.memory_ = std::move(memory);
  return matrix;
}

absl::StatusOr<PackedMatrix> PackedMatrix::PackAffine(const AffineView& source) {
  const PackedFormat format{source.scale_dtype, source.bits, source.group};
  absl::StatusOr<PackedMatrix> matrix = Allocate(format, source.rows, source.cols);
  if (matrix.ok()) matrix->set_affine_rows(0, source, {0, source.rows});
  return matrix;
}

absl::StatusOr<PackedMatrix> PackedMatrix::PackFloat(const void* data, DType dtype, int64_t rows,
                                                     int64_t cols, int64_t stride) {
  absl::StatusOr<PackedMatrix> matrix = Allocate({.dtype = dtype}, rows, cols);
  if (matrix.ok()) matrix->set_float_rows(0, data, stride, {0, rows});
  return matrix;
}

void PackedMatrix::set_affine_rows(int64_t first, const AffineView& source, Range source_rows) {
  SHOAL_CHECK(AffineLawHolds(source));
  SHOAL_CHECK((format_ == PackedFormat{source.scale_dtype, source.bits, source.group}));
  SHOAL_CHECK_EQ(source.cols, cols_);
  SHOAL_CHECK(0 <= source_rows.begin && source_rows.end <= source.rows);
  SHOAL_CHECK(first >= 0 && first + source_rows.size() <= rows_);
  auto* base = reinterpret_cast<uint8_t*>(memory_.get());
  for (int64_t i = 0; i < source_rows.size();) {
    const int64_t row = first + i;
    if (row % kTileRows == 0 && source_rows.size() - i >= kTileRows) {
      PackAffineTile(source, source_rows.begin + i, base + row / kTileRows * tile_bytes_);
      i += kTileRows;
      continue;
    }
    StoreAffineRow(source, source_rows.begin + i, static_cast<int>(row % kTileRows),
                   base + row / kTileRows * tile_bytes_);
    ++i;
  }
}

void PackedMatrix::set_float_rows(int64_t first, const void* source, int64_t stride, Range source_rows) {
  SHOAL_CHECK(!format_.affine());
  SHOAL_CHECK(stride >= cols_ && source_rows.begin >= 0);
  SHOAL_CHECK(first >= 0 && first + source_rows.size() <= rows_);
  const int64_t size = DTypeBytes(format_.dtype);
  auto* base = reinterpret_cast<uint8_t*>(memory_.get());
  for (int64_t i = 0; i < source_rows.size();) {
    const int64_t row = first + i;
    const uint8_t* from = static_cast<const uint8_t*>(source) + (source_rows.begin + i) * stride * size;
    uint8_t* to = base + row / kTileRows * tile_bytes_ + row % kTileRows * size;
    if (row % kTileRows == 0 && source_rows.size() - i >= kTileRows) {
      PackFloatTile(from, stride, cols_, size, to);
      i += kTileRows;
      continue;
    }
    ++i;
    if (size == 4) {
      StoreFloatRow<4>(from, cols_, to);
    } else {
      StoreFloatRow<2>(from, cols_, to);
    }
  }
}

PackedView PackedMatrix::view() const {
  return {.data = reinterpret_cast<const uint8_t*>(memory_.get()),
          .rows = rows_,
          .cols = cols_,
          .format = format_,
          .tile_bytes = tile_bytes_};
}

void PackedMatrix::unpack_row(int64_t row, float* out) const {
  SHOAL_CHECK(0 <= row && row < rows_);
  const uint8_t* tile = reinterpret_cast<const uint8_t*>(memory_.get()) + row / kTileRows * tile_bytes_;
  const int lane = static_cast<int>(row % kTileRows);
  if (!format_.affine()) {
    for (int64_t col = 0; col < cols_; ++col) {
      out[col] = LoadFloatWeight(tile, format_.dtype, col * kTileRows + lane);
    }
    return;
  }
  const RecordLayout layout = LayoutOf(format_);
  for (const uint8_t* record = tile; record < tile + tile_bytes_; record += layout.bytes()) {
    for (int64_t panel = 0; panel < layout.panels; ++panel) {
      uint32_t blocks[kBlocksPerPanel];
      LoadPanel(record + panel * format_.bits * kRegisterBytes, format_.bits, lane, blocks);
      for (int64_t col = 0; col < kPanelCols; ++col) {
        const uint8_t* scales =
            record + layout.code_bytes + (panel * kPanelCols + col) / format_.group * 2 * layout.scale_bytes;
        const float scale = LoadFloatWeight(scales, format_.dtype, lane);
        const float bias = LoadFloatWeight(scales + layout.scale_bytes, format_.dtype, lane);
        const uint32_t code = (blocks[col / 4] >> (8 * (col % 4))) & 0xffu;
        const float product = scale * static_cast<float>(code);
        *out++ = product + bias;
      }
    }
  }
}

}  // namespace shoal
