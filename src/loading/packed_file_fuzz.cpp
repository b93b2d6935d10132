// Any bytes are a table whose matrices lie in the file, or an InvalidArgument with a message; never a crash.
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/status.h"
#include "formats/content_hash.h"
#include "loading/packed_file.h"

namespace {

using shoal::PackedTable;

void CheckError(const absl::Status& status) {
  SHOAL_CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  SHOAL_CHECK(shoal::Message(status).find("fuzz.packed") != std::string::npos);
}

void CheckParse(std::span<const std::byte> file) {
  const auto file_bytes = static_cast<int64_t>(file.size());
  const auto table_bytes = shoal::ParsePackedPrefix(file, file_bytes, "fuzz.packed");
  if (!table_bytes.ok()) return CheckError(table_bytes.status());
  const auto prefix = file.first(shoal::kPackedPrefixBytes);
  const auto text = file.subspan(shoal::kPackedPrefixBytes, static_cast<size_t>(*table_bytes));
  const auto table = shoal::ParsePackedTable(prefix, text, file_bytes, "fuzz.packed");
  if (!table.ok()) return CheckError(table.status());
  int64_t at = shoal::kPackedPrefixBytes + *table_bytes;
  for (const shoal::PackedEntry& entry : table->entries) {
    SHOAL_CHECK(entry.offset >= at && entry.offset % shoal::kPackedAlignment == 0);
    SHOAL_CHECK(entry.tiles >= 1 && entry.tile_bytes >= 1);
    at = entry.offset + entry.bytes();
  }
  SHOAL_CHECK_EQ(at, file_bytes);
  // What was read is what would be written.
  const std::string head = shoal::EncodePackedHead(*table);
  SHOAL_CHECK_EQ(static_cast<int64_t>(head.size()), shoal::kPackedPrefixBytes + *table_bytes);
  SHOAL_CHECK_EQ(std::memcmp(head.data() + 16, file.data() + 16, head.size() - 16), 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string file(reinterpret_cast<const char*>(data), size);
  CheckParse(std::as_bytes(std::span(file)));
  // Most mutations leave the hash wrong: once more with all bytes as the table, and its hash.
  if (size < static_cast<size_t>(shoal::kPackedPrefixBytes)) return 0;
  const auto bytes = std::as_bytes(std::span(file));
  uint64_t table_bytes = 0;
  std::memcpy(&table_bytes, file.data() + 16, 8);
  const uint64_t left = size - shoal::kPackedPrefixBytes;
  if (table_bytes > left) table_bytes = left;
  const uint64_t hash =
      shoal::ContentHash(bytes.subspan(shoal::kPackedPrefixBytes, static_cast<size_t>(table_bytes)));
  std::memcpy(file.data() + 16, &table_bytes, 8);
  std::memcpy(file.data() + 24, &hash, 8);
  CheckParse(bytes);
  return 0;
}
