// A file of packed weights: a table of matrices with their hashes, then their bytes. A matrix is tiles of
// rows with a name and a format in words; what the bytes mean is up to the writer.
//
// All numbers are little-endian; a text is a u32 length and its bytes.
//   0     "SHOALPCK", u32 version of this layout, u32 0, u64 bytes of the table, u64 hash of the table
//   32    the table: text content, text unit, text about, u32 count, and for each matrix
//           text name, text format, u64 offset, u64 bytes of a tile, u64 tiles, u64 hash
//   data  each matrix at its offset (a multiple of 64), in the order of the table, without overlap; the last
//         one ends the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

/// 1 had all of a node's shard in one file, and no unit.
inline constexpr uint32_t kPackedFileVersion = 2;
/// Bytes in front of the table.
inline constexpr int64_t kPackedPrefixBytes = 32;
/// Where matrices may begin: a cache line, and a register of every instruction set.
inline constexpr int64_t kPackedAlignment = 64;
/// The first one begins on a page.
inline constexpr int64_t kPackedDataAlignment = 4096;
/// Longest table that is read: some hundred thousand matrices.
inline constexpr int64_t kPackedTableMax = int64_t{64} << 20;

struct PackedEntry {
  std::string name;        ///< Unique in the file.
  std::string format;      ///< Element format and shape, in words: compared, never parsed.
  int64_t offset = 0;      ///< In the file.
  int64_t tile_bytes = 0;  ///< >= 1
  int64_t tiles = 0;       ///< >= 1
  uint64_t hash = 0;       ///< Sum of ChunkHash over the tiles (content_hash.h).

  int64_t bytes() const { return tile_bytes * tiles; }
};

/// What the bytes of a file were made from. Another identity: another file.
struct PackedIdentity {
  std::string content;  ///< Which weights, and how they are packed.
  std::string unit;     ///< What of them: "layer 3".
  bool operator==(const PackedIdentity&) const = default;
  std::string text() const { return content + ", " + unit; }
};

struct PackedTable {
  PackedIdentity identity;
  std::string about;  ///< Where the model was, for people.
  std::vector<PackedEntry> entries;

  /// Bytes of the whole file: the end of the last matrix.
  int64_t file_bytes() const;
};

/// The version of a file's layout, read off its first kPackedPrefixBytes; UINT32_MAX where it is no such
/// file.
uint32_t PackedVersion(std::span<const std::byte> prefix);

/// Bytes of the table of a file, read off its first kPackedPrefixBytes. `file_bytes` is what the file has.
/// InvalidArgument (names the file, expected and got): not such a file, another version, or a table that does
/// not fit the file.
absl::StatusOr<int64_t> ParsePackedPrefix(std::span<const std::byte> prefix, int64_t file_bytes,
                                          std::string_view file_name);

/// The table behind a prefix that ParsePackedPrefix took. For any bytes, returns a table whose matrices lie
/// in the file as the layout says, or an InvalidArgument that names the file.
absl::StatusOr<PackedTable> ParsePackedTable(std::span<const std::byte> prefix,
                                             std::span<const std::byte> table, int64_t file_bytes,
                                             std::string_view file_name);

/// Gives the entries their offsets.
void LayOutPackedFile(PackedTable& table);

/// Prefix and table. The length does not depend on the hashes.
std::string EncodePackedHead(const PackedTable& table);

}  // namespace shoal
