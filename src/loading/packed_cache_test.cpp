#include "loading/packed_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/status.h"
#include "formats/test_files.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

PackedTable TableOf(const std::string& identity, int64_t tiles = 3) {
  PackedTable table{.identity = {identity, "layer 0"}, .about = "about " + identity};
  table.entries = {{.name = "w", .format = "f32", .tile_bytes = 64, .tiles = tiles}};
  LayOutPackedFile(table);
  return table;
}

/// Makes the file of an identity; its bytes are the identity's first character.
absl::Status Save(const PackedCache& cache, const std::string& identity, int64_t tiles = 3) {
  const PackedTable table = TableOf(identity, tiles);
  RETURN_IF_ERROR(cache.reserve(table.file_bytes(), 0));
  ASSIGN_OR_RETURN(PackedFileWriter writer, cache.create(table));
  const std::string bytes(static_cast<size_t>(table.entries[0].bytes()), identity[0]);
  RETURN_IF_ERROR(writer.write(table.entries[0].offset, std::as_bytes(std::span(bytes))));
  RETURN_IF_ERROR(writer.complete(table));
  return writer.publish();
}

PackedIdentity Identity(const std::string& content) { return {content, "layer 0"}; }

class PackedCacheTest : public ::testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    if (!std::filesystem::exists(cache_.folder())) return found;
    for (const auto& entry : std::filesystem::directory_iterator(cache_.folder())) {
      found.push_back(entry.path().filename().string());
    }
    return found;
  }
  std::vector<std::string> abouts() const {
    std::vector<std::string> found;
    for (const PackedCache::Item& item : cache_.list()) found.push_back(item.about);
    return found;
  }
  /// As if the file had last been used that long ago.
  static void rest(const std::string& path, std::chrono::seconds how_long) {
    std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - how_long);
  }

  TemporaryFolder folder_;
  PackedCache cache_{{.folder = folder_ / "a/b"}};
};

TEST_F(PackedCacheTest, GivesBackWhatWasSaved) {
  EXPECT_EQ(cache_.open(Identity("one")).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Save(cache_, "one").ok());
  ASSERT_TRUE(Save(cache_, "two").ok());
  const absl::StatusOr<PackedFile> file = cache_.open(Identity("one"));
  ASSERT_TRUE(file.ok()) << file.status();
  std::string bytes(192, ' ');
  ASSERT_TRUE(file->read(file->table().entries[0].offset, std::as_writable_bytes(std::span(bytes))).ok());
  EXPECT_EQ(bytes, std::string(192, 'o'));
  EXPECT_EQ(file->read(file->table().file_bytes() - 1, std::as_writable_bytes(std::span(bytes))).code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(PackedCacheTest, AFileOfAnotherIdentityIsNotTaken) {
  ASSERT_TRUE(Save(cache_, "one").ok());
  const std::string one = cache_.list()[0].path;
  ASSERT_TRUE(Save(cache_, "two").ok());
  const auto two = cache_.open(Identity("two"));
  std::filesystem::copy_file(two->path(), one, std::filesystem::copy_options::overwrite_existing);
  const absl::Status status = cache_.open(Identity("one")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              HasSubstr("expected the weights of 'one, layer 0', found those of 'two, layer 0'"));
}

TEST_F(PackedCacheTest, AWriterThatGivesUpLeavesNothing) {
  {
    const auto writer = cache_.create(TableOf("one"));
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_EQ(names().size(), 1u);
    EXPECT_THAT(cache_.list(), IsEmpty());  // Not before it is whole.
  }
  EXPECT_THAT(names(), IsEmpty());
}

TEST_F(PackedCacheTest, TwoWritersOfOneFileDoNotDisturbEachOther) {
  const PackedTable table = TableOf("one");
  auto first = cache_.create(table);
  auto second = cache_.create(table);
  const std::string a(192, 'a'), b(192, 'b');
  ASSERT_TRUE(first->write(table.entries[0].offset, std::as_bytes(std::span(a))).ok());
  ASSERT_TRUE(second->write(table.entries[0].offset, std::as_bytes(std::span(b))).ok());
  ASSERT_TRUE(first->complete(table).ok() && first->publish().ok());
  const auto opened =
      cache_.open(Identity("one"));  // Goes on to be readable when the name is given to another file.
  ASSERT_TRUE(second->complete(table).ok() && second->publish().ok());
  std::string bytes(192, ' ');
  ASSERT_TRUE(opened->read(table.entries[0].offset, std::as_writable_bytes(std::span(bytes))).ok());
  EXPECT_EQ(bytes, a);
  ASSERT_TRUE(cache_.open(Identity("one"))
                  ->read(table.entries[0].offset, std::as_writable_bytes(std::span(bytes)))
                  .ok());
  EXPECT_EQ(bytes, b);
  EXPECT_EQ(names().size(), 1u);
}

TEST_F(PackedCacheTest, WhatRestedLongestGoesWhenRoomIsNeeded) {
  const int64_t each = TableOf("one").file_bytes();
  const PackedCache small({.folder = cache_.folder(), .limit_bytes = 2 * each + each / 2});
  for (const std::string name : {"one", "two"}) {
    ASSERT_TRUE(Save(small, name).ok());
    rest(small.open(Identity(name))->path(), std::chrono::hours(name == "one" ? 3 : 2));
  }
  small.open(Identity("one"))->touch();
  ASSERT_TRUE(Save(small, "three").ok());
  EXPECT_THAT(abouts(), ElementsAre("about three", "about one"));
}

TEST_F(PackedCacheTest, WhatExceedsTheLimitIsNotBegunAndCostsNoOther) {
  const PackedCache small({.folder = cache_.folder(), .limit_bytes = TableOf("one").file_bytes()});
  ASSERT_TRUE(Save(small, "one").ok());
  const absl::Status status = Save(small, "two", 1000);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("more than the limit"));
  EXPECT_THAT(abouts(), ElementsAre("about one"));
}

TEST_F(PackedCacheTest, FilesThatGoWithNewOnesCountToTheirLimit) {
  const int64_t each = TableOf("one").file_bytes();
  const PackedCache small({.folder = cache_.folder(), .limit_bytes = 2 * each});
  EXPECT_TRUE(small.reserve(each, each).ok());
  EXPECT_EQ(small.reserve(each, each + 1).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(PackedCacheTest, FilesOfAnOlderLayoutGoWhenNewOnesCome) {
  ASSERT_TRUE(Save(cache_, "one").ok());
  const std::string old = cache_.list()[0].path;
  ASSERT_TRUE(Save(cache_, "two").ok());
  std::fstream file(old, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(8);
  file.put(1);
  file.close();
  EXPECT_EQ(cache_.open(Identity("one")).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Save(cache_, "three").ok());
  EXPECT_FALSE(std::filesystem::exists(old));
  EXPECT_EQ(cache_.list().size(), 2u);
}

TEST_F(PackedCacheTest, SaysWhetherAFileIsStillThere) {
  EXPECT_TRUE(cache_.is_still(Identity("one"), nullptr));
  ASSERT_TRUE(Save(cache_, "one").ok());
  EXPECT_FALSE(cache_.is_still(Identity("one"), nullptr));
  const auto first = cache_.open(Identity("one"));
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(cache_.is_still(Identity("one"), &*first));
  ASSERT_TRUE(Save(cache_, "one").ok());
  EXPECT_FALSE(cache_.is_still(Identity("one"), &*first));
}

TEST_F(PackedCacheTest, ALockIsGivenToOneAtATime) {
  ASSERT_TRUE(Save(cache_, "one").ok());
  std::atomic<bool> held = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 20; ++k) {
        const FileHandle lock = cache_.lock();
        EXPECT_FALSE(held.exchange(true));
        std::this_thread::yield();
        held = false;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(PackedCacheTest, WhatDeadWritersLeftIsDeletedAndWhatLivingOnesWriteIsNot) {
  ASSERT_TRUE(Save(cache_, "one").ok());
  const std::string stem = cache_.list()[0].path;
  const std::string old = stem + ".0123456789abcdef.partial";
  const std::string young = stem + ".0123456789abcdee.partial";
  for (const std::string& path : {old, young}) std::ofstream(path) << "x";
  auto living = cache_.create(TableOf("two"));
  for (const auto& name : names()) {
    if (folder_ / "a/b/" + name != young) rest(folder_ / "a/b/" + name, std::chrono::hours(1));
  }
  ASSERT_TRUE(Save(cache_, "three").ok());
  EXPECT_FALSE(std::filesystem::exists(old));
  EXPECT_TRUE(std::filesystem::exists(young));
  EXPECT_TRUE(living->complete(TableOf("two")).ok() && living->publish().ok());
}

TEST_F(PackedCacheTest, ClearingLeavesForeignFilesAlone) {
  EXPECT_EQ(*cache_.clear(), 0);  // No folder yet.
  ASSERT_TRUE(Save(cache_, "one").ok());
  std::ofstream(folder_ / "a/b/notes.packed") << "mine";
  EXPECT_EQ(*cache_.clear(), TableOf("one").file_bytes());
  EXPECT_THAT(names(), ElementsAre("notes.packed"));
  EXPECT_THAT(cache_.list(), IsEmpty());
}

TEST_F(PackedCacheTest, ABrokenFileIsListedWithTheReason) {
  ASSERT_TRUE(Save(cache_, "one").ok());
  std::filesystem::resize_file(cache_.list()[0].path, 4100);
  const std::vector<PackedCache::Item> items = cache_.list();
  ASSERT_EQ(items.size(), 1u);
  EXPECT_THAT(items[0].problem, HasSubstr("matrix 'w'"));
  EXPECT_EQ(cache_.open(Identity("one")).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PackedCacheTest, AFolderThatCannotBeMadeIsAnError) {
  folder_.write("file", "");
  const PackedCache cache({.folder = folder_ / "file/below"});
  EXPECT_FALSE(Save(cache, "one").ok());
  EXPECT_EQ(cache.open(Identity("one")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(cache.list(), IsEmpty());
}

}  // namespace
}  // namespace shoal
