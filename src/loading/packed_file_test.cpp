#include "loading/packed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/status.h"
#include "formats/content_hash.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

PackedTable SomeTable() {
  PackedTable table{.identity = {"what it was made from", "layer 3"}, .about = "a model"};
  table.entries = {{.name = "a.weight", .format = "bf16 [20, 3]", .tile_bytes = 96, .tiles = 2, .hash = 1},
                   {.name = "b.weight", .format = "bf16 [1, 1]", .tile_bytes = 32, .tiles = 1, .hash = 2},
                   {.name = "c.weight", .format = "f32 [16, 1]", .tile_bytes = 64, .tiles = 3, .hash = 3}};
  LayOutPackedFile(table);
  return table;
}

std::string SomeFile() {
  const PackedTable table = SomeTable();
  std::string file = EncodePackedHead(table);
  file.resize(static_cast<size_t>(table.file_bytes()));
  return file;
}

absl::StatusOr<PackedTable> Parse(const std::string& file) {
  const auto bytes = std::as_bytes(std::span(file));
  const auto size = static_cast<int64_t>(file.size());
  const auto table = ParsePackedPrefix(bytes, size, "x.packed");
  if (!table.ok()) return table.status();
  return ParsePackedTable(bytes.first(kPackedPrefixBytes),
                          bytes.subspan(kPackedPrefixBytes, static_cast<size_t>(*table)), size, "x.packed");
}

std::string Error(const std::string& file) {
  const absl::Status status = Parse(file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return Message(status);
}

/// SomeFile with its table changed, and a hash that says so.
template <typename Change>
std::string WithTable(Change change) {
  PackedTable table = SomeTable();
  const int64_t size = table.file_bytes();
  change(table);
  std::string file = EncodePackedHead(table);
  file.resize(static_cast<size_t>(size));
  return file;
}

TEST(PackedFile, GivesBackTheTableThatWasWritten) {
  const PackedTable written = SomeTable();
  const absl::StatusOr<PackedTable> read = Parse(SomeFile());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->identity, written.identity);
  EXPECT_EQ(read->about, written.about);
  ASSERT_EQ(read->entries.size(), written.entries.size());
  for (size_t i = 0; i < written.entries.size(); ++i) {
    EXPECT_EQ(read->entries[i].name, written.entries[i].name);
    EXPECT_EQ(read->entries[i].format, written.entries[i].format);
    EXPECT_EQ(read->entries[i].offset, written.entries[i].offset);
    EXPECT_EQ(read->entries[i].bytes(), written.entries[i].bytes());
    EXPECT_EQ(read->entries[i].hash, written.entries[i].hash);
  }
}

TEST(PackedFile, MatricesLieOnCacheLinesAndTheFirstOnAPage) {
  const PackedTable table = SomeTable();
  EXPECT_EQ(table.entries[0].offset % kPackedDataAlignment, 0);
  EXPECT_EQ(table.entries[1].offset, table.entries[0].offset + 192);
  EXPECT_EQ(table.entries[2].offset,
            table.entries[1].offset + 64);  // 32 bytes, and as many to the next line.
}

TEST(PackedFile, AHashOfChunksKnowsTheirOrder) {
  const std::string a(64, 'a'), b(64, 'b');
  const auto bytes = [](const std::string& text) { return std::as_bytes(std::span(text)); };
  EXPECT_NE(ChunkHash(bytes(a), 0) + ChunkHash(bytes(b), 1), ChunkHash(bytes(b), 0) + ChunkHash(bytes(a), 1));
}

TEST(PackedFile, RefusesWhatIsNotOneOrOfAnotherVersion) {
  EXPECT_THAT(Error(""), HasSubstr("x.packed"));
  EXPECT_THAT(Error(std::string(100, 'x')), HasSubstr("SHOALPCK"));
  std::string other = SomeFile();
  other[8] = 1;
  EXPECT_THAT(Error(other), HasSubstr("version 2, found 1"));
  EXPECT_EQ(PackedVersion(std::as_bytes(std::span(other))), 1u);
  const std::string foreign(100, 'x');
  EXPECT_EQ(PackedVersion(std::as_bytes(std::span(foreign))), UINT32_MAX);
}

TEST(PackedFile, RefusesAnyByteOfTheTableThatChanged) {
  const std::string whole = SomeFile();
  const size_t head = EncodePackedHead(SomeTable()).size();
  for (size_t at = 0; at < head; ++at) {
    if (at >= 12 && at < 16) continue;  // Reserved.
    std::string file = whole;
    file[at] = static_cast<char>(file[at] ^ 0x10);
    EXPECT_FALSE(Parse(file).ok()) << at;
  }
}

TEST(PackedFile, RefusesEveryLengthButItsOwn) {
  const std::string whole = SomeFile();
  for (size_t size = 0; size < whole.size(); size += 7) Error(whole.substr(0, size));
  EXPECT_THAT(Error(whole.substr(0, whole.size() - 1)), HasSubstr("matrix 'c.weight'"));
  EXPECT_THAT(Error(whole + "x"), HasSubstr("appended"));
}

TEST(PackedFile, RefusesMatricesThatOverlapLeaveTheFileOrOverflow) {
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[1].offset = t.entries[0].offset; })),
              HasSubstr("'b.weight'"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[0].offset = 0; })), HasSubstr("'a.weight'"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[1].offset += 4; })),
              HasSubstr("multiple of 64"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[2].tiles = 4; })), HasSubstr("'c.weight'"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[0].tiles = int64_t{1} << 61; })),
              HasSubstr("'a.weight'"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[0].tiles = -1; })), HasSubstr("'a.weight'"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[0].tile_bytes = 0; })), HasSubstr("'a.weight'"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries[1].name = "a.weight"; })),
              HasSubstr("there twice"));
  EXPECT_THAT(Error(WithTable([](PackedTable& t) { t.entries.clear(); })), HasSubstr("expected"));
}

}  // namespace
}  // namespace shoal
