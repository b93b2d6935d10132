// A packed matrix as the files of the cache name, describe and hash it (packed_file.h): the same for whoever writes it,
// and whoever reads it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/range.h"
#include "base/status.h"
#include "formats/checkpoint.h"
#include "kernels/packed.h"
#include "loading/packed_cache.h"
#include "loading/packed_file.h"

namespace shoal {

/// The version of how weights lie when they are packed (kernels/packed.h): another one, another file.
inline constexpr int kPackingVersion = 1;

/// Bytes that are read or written, and hashed, at a time: they stay in a core's cache in between.
inline constexpr int64_t kPackedChunkBytes = int64_t{512} << 10;

/// PackedIdentity::content of what is packed from this checkpoint.
std::string PackedContent(const Checkpoint& checkpoint);

/// The entry of a matrix, without offset and hash.
PackedEntry PackedEntryOf(std::string name, const PackedFormat& format, int64_t rows, int64_t cols);

/// Whether an entry of a file is the matrix that is wanted.
inline bool IsSamePacked(const PackedEntry& kept, const PackedEntry& wanted) {
  return kept.format == wanted.format && kept.tile_bytes == wanted.tile_bytes && kept.tiles == wanted.tiles;
}

/// The matrix that is wanted in the table of a file; nullptr: it is not there.
const PackedEntry* FindPacked(const PackedTable& table, const PackedEntry& wanted);

/// The part of PackedEntry::hash of these tiles. `at`: the first byte of them.
uint64_t HashPackedTiles(const PackedEntry& entry, const std::byte* at, Range tiles);

/// Calls visit(tiles) for ranges of the entry's tiles of about a chunk each, until one fails.
template <typename Visit>
absl::Status InPackedChunks(const PackedEntry& entry, Range tiles, Visit visit) {
  const int64_t chunk = std::max<int64_t>(1, kPackedChunkBytes / entry.tile_bytes);
  for (int64_t begin = tiles.begin; begin < tiles.end; begin += chunk) {
    RETURN_IF_ERROR(visit(Range{begin, std::min(tiles.end, begin + chunk)}));
  }
  return absl::OkStatus();
}

/// Reads tiles of an entry of `file` to `at`, and gives their part of PackedEntry::hash. Errors as PackedFile::read().
absl::StatusOr<uint64_t> ReadPackedTiles(const PackedFile& file, const PackedEntry& entry, Range tiles,
                                         std::byte* at);

}  // namespace shoal
