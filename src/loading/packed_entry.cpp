#include "loading/packed_entry.h"

#include <utility>

#include "formats/content_hash.h"
#include "numeric/version.h"

namespace shoal {
namespace {

/// "bf16 4-bit groups of 64 [6144, 2048]".
std::string FormatText(const PackedFormat& format, int64_t rows, int64_t cols) {
  const std::string shape = fmt::format("[{}, {}]", rows, cols);
  if (!format.affine()) return fmt::format("{} {}", DTypeName(format.dtype), shape);
  return fmt::format("{} {}-bit groups of {} {}", DTypeName(format.dtype), format.bits, format.group, shape);
}

}  // namespace

std::string PackedContent(const Checkpoint& checkpoint) {
  return fmt::format("packing {}, numerics {}, content {}", kPackingVersion, kNumericsVersion,
                     checkpoint.content_identity());
}

PackedEntry PackedEntryOf(std::string name, const PackedFormat& format, int64_t rows, int64_t cols) {
  PackedEntry entry;
  entry.name = std::move(name);
  entry.format = FormatText(format, rows, cols);
  entry.tiles = (rows + kTileRows - 1) / kTileRows;
  entry.tile_bytes = PackedBytes(format, rows, cols) / entry.tiles;
  return entry;
}

uint64_t HashPackedTiles(const PackedEntry& entry, const std::byte* at, Range tiles) {
  uint64_t sum = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, at += entry.tile_bytes) {
    sum += ChunkHash({at, static_cast<size_t>(entry.tile_bytes)}, tile);
  }
  return sum;
}

}  // namespace shoal
