#include "loading/packed_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/status.h"
#include "formats/content_hash.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie in memory");

constexpr std::string_view kMagic = "SHOALPCK";

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

template <typename T>
void AppendNumber(T value, std::string& out) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void AppendText(std::string_view text, std::string& out) {
  SHOAL_CHECK_LE(static_cast<int64_t>(text.size()), int64_t{UINT32_MAX});
  AppendNumber(static_cast<uint32_t>(text.size()), out);
  out += text;
}

/// Takes numbers and texts off the front of bytes; once one is missing, all that follows is.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T number() {
    T value = 0;
    if (const auto taken = take(sizeof(T)); ok_) std::memcpy(&value, taken.data(), sizeof(T));
    return value;
  }
  std::string text() {
    const auto length = number<uint32_t>();
    const auto taken = take(length);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  bool ok() const { return ok_; }
  size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> take(size_t count) {
    ok_ = ok_ && count <= bytes_.size();
    if (!ok_) return {};
    const auto taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

struct Prefix {
  uint32_t version = 0;
  uint64_t table_bytes = 0;
  uint64_t table_hash = 0;
};

Prefix ReadPrefix(std::span<const std::byte> bytes) {
  Cursor cursor(bytes.subspan(kMagic.size()));
  Prefix prefix;
  prefix.version = cursor.number<uint32_t>();
  cursor.number<uint32_t>();
  prefix.table_bytes = cursor.number<uint64_t>();
  prefix.table_hash = cursor.number<uint64_t>();
  return prefix;
}

/// A size or an offset: below 2^62, so that sums of two do not overflow.
std::optional<int64_t> Size(uint64_t number) {
  if (number >= uint64_t{1} << 62) return std::nullopt;
  return static_cast<int64_t>(number);
}

absl::Status Broken(std::string_view file_name, std::string_view what) {
  return InvalidArgument("{}: {}", file_name, what);
}

/// One matrix that lies in [begin, file_bytes).
absl::StatusOr<PackedEntry> ReadEntry(Cursor& cursor, int64_t begin, int64_t file_bytes,
                                      std::string_view file_name) {
  PackedEntry entry;
  entry.name = cursor.text();
  entry.format = cursor.text();
  const std::optional<int64_t> offset = Size(cursor.number<uint64_t>());
  const std::optional<int64_t> tile_bytes = Size(cursor.number<uint64_t>());
  const std::optional<int64_t> tiles = Size(cursor.number<uint64_t>());
  entry.hash = cursor.number<uint64_t>();
  if (!cursor.ok()) return Broken(file_name, "the table ends in the middle of a matrix");
  int64_t bytes = 0;
  int64_t end = 0;
  if (!offset || !tile_bytes || !tiles || *tile_bytes < 1 || *tiles < 1 ||
      __builtin_mul_overflow(*tile_bytes, *tiles, &bytes) || __builtin_add_overflow(*offset, bytes, &end) ||
      *offset < begin || *offset % kPackedAlignment != 0 || end > file_bytes) {
    return InvalidArgument(
        "{}: matrix '{}': expected tiles between bytes {} and {} of the file, from a multiple of {} on",
        file_name, Printable(entry.name, 200), begin, file_bytes, kPackedAlignment);
  }
  entry.offset = *offset;
  entry.tile_bytes = *tile_bytes;
  entry.tiles = *tiles;
  return entry;
}

}  // namespace

int64_t PackedTable::file_bytes() const {
  return entries.empty() ? 0 : entries.back().offset + entries.back().bytes();
}

uint32_t PackedVersion(std::span<const std::byte> prefix) {
  if (static_cast<int64_t>(prefix.size()) < kPackedPrefixBytes ||
      std::memcmp(prefix.data(), kMagic.data(), kMagic.size()) != 0) {
    return UINT32_MAX;
  }
  return ReadPrefix(prefix).version;
}

absl::StatusOr<int64_t> ParsePackedPrefix(std::span<const std::byte> prefix, int64_t file_bytes,
                                          std::string_view file_name) {
  if (static_cast<int64_t>(prefix.size()) < kPackedPrefixBytes || file_bytes < kPackedPrefixBytes ||
      std::memcmp(prefix.data(), kMagic.data(), kMagic.size()) != 0) {
    return Broken(file_name, "expected a file of packed weights, which begins with 'SHOALPCK'");
  }
  const Prefix read = ReadPrefix(prefix.first(kPackedPrefixBytes));
  if (read.version != kPackedFileVersion) {
    return InvalidArgument("{}: expected layout version {}, found {}", file_name, kPackedFileVersion,
                           read.version);
  }
  const int64_t table_max = std::min(kPackedTableMax, file_bytes - kPackedPrefixBytes);
  if (read.table_bytes > static_cast<uint64_t>(table_max)) {
    return InvalidArgument("{}: table: expected at most {} bytes (the file has {}), found {}", file_name,
                           table_max, file_bytes, read.table_bytes);
  }
  return static_cast<int64_t>(read.table_bytes);
}

absl::StatusOr<PackedTable> ParsePackedTable(std::span<const std::byte> prefix,
                                             std::span<const std::byte> table, int64_t file_bytes,
                                             std::string_view file_name) {
  SHOAL_CHECK_GE(static_cast<int64_t>(prefix.size()), kPackedPrefixBytes);
  if (ContentHash(table) != ReadPrefix(prefix.first(kPackedPrefixBytes)).table_hash) {
    return Broken(file_name, "the table is not as it was written (its hash is another)");
  }
  Cursor cursor(table);
  PackedTable result;
  result.identity.content = cursor.text();
  result.identity.unit = cursor.text();
  result.about = cursor.text();
  const auto count = cursor.number<uint32_t>();
  if (!cursor.ok()) return Broken(file_name, "the table ends before its first matrix");
  std::set<std::string> names;
  int64_t begin = kPackedPrefixBytes + static_cast<int64_t>(table.size());
  for (uint32_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(PackedEntry entry, ReadEntry(cursor, begin, file_bytes, file_name));
    if (!names.insert(entry.name).second) {
      return InvalidArgument("{}: matrix '{}' is there twice", file_name, Printable(entry.name, 200));
    }
    begin = entry.offset + entry.bytes();
    result.entries.push_back(std::move(entry));
  }
  if (cursor.left() != 0) return Broken(file_name, "the table goes on behind its last matrix");
  if (result.entries.empty() || begin != file_bytes) {
    return InvalidArgument("{}: expected {} bytes, found {}: it is truncated, or something was appended",
                           file_name, begin, file_bytes);
  }
  return result;
}

std::string EncodePackedHead(const PackedTable& table) {
  std::string body;
  AppendText(table.identity.content, body);
  AppendText(table.identity.unit, body);
  AppendText(table.about, body);
  AppendNumber(static_cast<uint32_t>(table.entries.size()), body);
  for (const PackedEntry& entry : table.entries) {
    AppendText(entry.name, body);
    AppendText(entry.format, body);
    for (const int64_t number : {entry.offset, entry.tile_bytes, entry.tiles}) {
      AppendNumber(static_cast<uint64_t>(number), body);
    }
    AppendNumber(entry.hash, body);
  }
  std::string head(kMagic);
  AppendNumber(kPackedFileVersion, head);
  AppendNumber(uint32_t{0}, head);
  AppendNumber(static_cast<uint64_t>(body.size()), head);
  AppendNumber(ContentHash(std::as_bytes(std::span(body))), head);
  return head + body;
}

void LayOutPackedFile(PackedTable& table) {
  int64_t at = RoundUp(static_cast<int64_t>(EncodePackedHead(table).size()), kPackedDataAlignment);
  for (PackedEntry& entry : table.entries) {
    SHOAL_CHECK(entry.tile_bytes >= 1 && entry.tiles >= 1);
    entry.offset = at;
    at = RoundUp(at + entry.bytes(), kPackedAlignment);
  }
}

}  // namespace shoal
