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

const PackedEntry* FindPacked(const PackedTable& table, const PackedEntry& wanted) {
  const auto found = std::ranges::find(table.entries, wanted.name, &PackedEntry::name);
  return found != table.entries.end() && IsSamePacked(*found, wanted) ? &*found : nullptr;
}

uint64_t HashPackedTiles(const PackedEntry& entry, const std::byte* at, Range tiles) {
  uint64_t sum = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, at += entry.tile_bytes) {
    sum += ChunkHash({at, static_cast<size_t>(entry.tile_bytes)}, tile);
  }
  return sum;
}

absl::StatusOr<uint64_t> ReadPackedTiles(const PackedFile& file, const PackedEntry& entry, Range tiles,
                                         std::byte* at) {
  uint64_t hash = 0;
  const absl::Status status = InPackedChunks(entry, tiles, [&](Range chunk) -> absl::Status {
    const auto size = static_cast<size_t>(chunk.size() * entry.tile_bytes);
    RETURN_IF_ERROR(file.read(entry.offset + chunk.begin * entry.tile_bytes, {at, size}));
    hash += HashPackedTiles(entry, at, chunk);
    at += size;
    return absl::OkStatus();
  });
  RETURN_IF_ERROR(status);
  return hash;
}

}  // namespace shoal
