#include "kv/disk_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr BlockKey kShare{7, 8};

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

std::vector<std::byte> Record(std::span<const int32_t> tokens, uint64_t seed, size_t bytes = 1000) {
  std::vector<std::byte> record = BeginRecord(tokens);
  RandomStream random(seed);
  for (size_t i = 0; i < bytes; ++i) record.push_back(static_cast<std::byte>(random.below(256)));
  return record;
}

/// What a session hears.
class Listener {
 public:
  explicit Listener(DiskStore& store, const BlockKey& share = kShare) {
    mailbox = std::make_shared<DiskMailbox>(share, [this] {
      const std::lock_guard lock(mutex_);
      woken_ = true;
      changed_.notify_all();
    });
    store.subscribe(mailbox);
    for (const BlockKey& key : store.keys(*mailbox)) there.insert(key);
  }
  ~Listener() { mailbox->close(); }

  /// Until `done`, for 20 s at most.
  template <typename Done>
  bool wait(Done done) {
    const Deadline deadline = Deadline::after_ms(20'000);
    while (true) {
      DiskMailbox::News news = mailbox->take();
      for (const RecordChange& change : news.changes) {
        if (change.there) {
          there.insert(change.key);
        } else {
          there.erase(change.key);
        }
      }
      for (DiskMailbox::Loaded& one : news.loaded) loaded[one.order].push_back(std::move(one));
      ended.insert(news.ended.begin(), news.ended.end());
      if (done()) return true;
      std::unique_lock lock(mutex_);
      const Deadline look = Deadline::min(deadline, Deadline::after_ms(2));  // Changes do not wake.
      (void)changed_.wait_until(lock, look.at, [&] { return woken_; });
      if (deadline.expired()) return false;
      woken_ = false;
    }
  }
  /// The images of the records that came.
  std::vector<std::vector<std::byte>> load(DiskStore& store, LoadOrder order) {
    const uint64_t id = order.id;
    store.load(mailbox, std::move(order));
    EXPECT_TRUE(wait([&] { return ended.contains(id); }));
    std::vector<std::vector<std::byte>> images;
    for (const DiskMailbox::Loaded& one : loaded[id]) {
      EXPECT_EQ(one.index, images.size());
      images.emplace_back(one.record.begin() + static_cast<std::ptrdiff_t>(one.images_begin),
                          one.record.end());
    }
    return images;
  }

  std::shared_ptr<DiskMailbox> mailbox;
  std::set<BlockKey> there;
  std::map<uint64_t, std::vector<DiskMailbox::Loaded>> loaded;
  std::set<uint64_t> ended;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
};

class DiskStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              fmt::format("shoal-kv-{}-{:08x}", getpid(), EntropySeed() & 0xffffffff);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::shared_ptr<DiskStore> open(int64_t bytes_max = 1 << 20) {
    auto store = DiskStore::Open({.folder = folder_.string(),
                                  .bytes_max = bytes_max,
                                  .full_disk_pause = std::chrono::milliseconds(1)});
    EXPECT_TRUE(store.ok()) << ToString(store.status());
    return *std::move(store);
  }
  /// Saves records for keys {0, first} ... and waits for them. The key {0, k} has 32 (k + 1) tokens.
  static void save(DiskStore& store, Listener& listener, std::span<const uint64_t> keys) {
    for (const uint64_t key : keys) {
      const auto tokens = Tokens(32 * static_cast<int32_t>(key + 1));
      EXPECT_TRUE(store.save({kShare, {0, key}}, tokens.size(), Record(tokens, key)));
      EXPECT_TRUE(listener.wait([&] { return listener.there.contains({0, key}); })) << key;
    }
  }
  static LoadOrder order(std::span<const uint64_t> keys, uint64_t id) {
    LoadOrder order{.id = id, .tokens = Tokens(320)};
    for (const uint64_t key : keys) order.records.push_back({{0, key}, 32 * (key + 1)});
    return order;
  }
  std::vector<std::filesystem::path> files(std::string_view suffix = ".kv") const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
      if (entry.path().string().ends_with(suffix)) files.push_back(entry.path());
    }
    return files;
  }
  static std::vector<std::byte> images(uint64_t key) {
    std::vector<std::byte> record = Record({}, key);
    record.erase(record.begin(), record.begin() + kDiskRecordHeaderBytes);
    return record;
  }

  std::filesystem::path folder_;
};

constexpr uint64_t kThree[] = {0, 1, 2};

TEST_F(DiskStoreTest, WhatWasSavedIsThereAfterARestart) {
  {
    const auto store = open();
    Listener listener(*store);
    save(*store, listener, kThree);
    EXPECT_EQ(store->stats().saved, 3);
  }
  const auto store = open();
  Listener listener(*store);
  EXPECT_THAT(listener.there, ElementsAre(BlockKey{0, 0}, BlockKey{0, 1}, BlockKey{0, 2}));
  EXPECT_THAT(listener.load(*store, order(kThree, 5)), ElementsAre(images(0), images(1), images(2)));
  EXPECT_EQ(store->stats().loaded, 3);
  EXPECT_EQ(store->stats().errors, 0);
}

TEST_F(DiskStoreTest, WhatStillWaitsIsWrittenAtTheEnd) {
  {
    const auto store = open();
    for (uint64_t key = 0; key < 50; ++key) {
      EXPECT_TRUE(store->save({kShare, {0, key}}, 0, Record({}, key)));
      EXPECT_TRUE(store->contains({kShare, {0, key}}));
    }
  }
  EXPECT_EQ(open()->stats().records, 50);
}

TEST_F(DiskStoreTest, AnOrderEndsAtTheFirstRecordThatIsNotThere) {
  const auto store = open();
  Listener listener(*store);
  save(*store, listener, kThree);
  const uint64_t gap[] = {0, 1, 4, 2};
  EXPECT_THAT(listener.load(*store, order(gap, 1)), SizeIs(2));
  EXPECT_EQ(store->stats().errors, 0);
}

TEST_F(DiskStoreTest, TheSameKeyOfOtherTokensIsNotTaken) {
  const auto store = open();
  Listener listener(*store);
  save(*store, listener, kThree);
  LoadOrder other = order(kThree, 1);
  other.tokens[40] ^= 1;
  EXPECT_THAT(listener.load(*store, other), SizeIs(1));
}

TEST_F(DiskStoreTest, OtherSharesDoNotMeet) {
  const auto store = open();
  Listener listener(*store);
  Listener other(*store, {1, 1});
  save(*store, listener, kThree);
  EXPECT_THAT(other.load(*store, order(kThree, 1)), IsEmpty());
  EXPECT_THAT(other.there, IsEmpty());
  EXPECT_EQ(store->stats().records, 3);
}

TEST_F(DiskStoreTest, ADamagedCutOrMissingFileIsARecordLessAndIsToldSo) {
  const auto store = open();
  for (const std::string damage : {"flip", "cut", "grow", "gone", "other"}) {
    SCOPED_TRACE(damage);
    Listener listener(*store);
    for (const BlockKey& key : std::set(listener.there))
      store->discard({kShare, key}, Internal("a new round"));
    ASSERT_TRUE(listener.wait([&] { return listener.there.empty(); }));
    save(*store, listener, kThree);
    const int64_t before = store->stats().errors;
    const auto found = files();
    ASSERT_THAT(found, SizeIs(3));
    std::filesystem::path victim;
    for (const auto& file : found) {
      if (file.filename().string().ends_with("1.kv")) victim = file;
    }
    if (damage == "flip") {
      std::fstream stream(victim, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(500);
      stream.put('\x55').put('\x12');
    } else if (damage == "cut" || damage == "grow") {
      std::filesystem::resize_file(victim, damage == "cut" ? 300 : 3000);
    } else if (damage == "gone") {
      std::filesystem::remove(victim);
    } else {
      for (const auto& file : found) {
        if (file.filename().string().ends_with("2.kv")) {
          std::filesystem::copy_file(file, victim, std::filesystem::copy_options::overwrite_existing);
        }
      }
    }
    const auto came = listener.load(*store, order(kThree, 1));
    if (damage == "grow") {  // Its beginning is read, and is whole.
      EXPECT_THAT(came, SizeIs(3));
      continue;
    }
    EXPECT_THAT(came, ElementsAre(images(0)));
    EXPECT_TRUE(listener.wait([&] { return !listener.there.contains({0, 1}); }));
    EXPECT_EQ(store->stats().errors, before + 1);
    EXPECT_THAT(listener.load(*store, order(kThree, 2)), SizeIs(1));
  }
}

TEST_F(DiskStoreTest, TheBoundIsKeptAndTheLeastRecentlyUsedGoesFirst) {
  const auto probe = Record(Tokens(32), 0);
  const int64_t bound = 5 * std::ssize(probe) + 2000;  // Records grow with their tokens: four fit.
  {
    const auto store = open(bound);
    Listener listener(*store);
    save(*store, listener, kThree);
    const uint64_t first[] = {0};
    EXPECT_THAT(listener.load(*store, order(first, 1)), SizeIs(1));
    const uint64_t more[] = {3, 4, 5};
    save(*store, listener, more);
    EXPECT_TRUE(listener.there.contains({0, 0}));
    EXPECT_FALSE(listener.there.contains({0, 1}));
    EXPECT_LE(store->stats().bytes, bound);
  }
  int64_t on_disk = 0;
  for (const auto& file : files()) on_disk += static_cast<int64_t>(std::filesystem::file_size(file));
  EXPECT_LE(on_disk, bound);
  EXPECT_GT(on_disk, 0);
  const auto smaller = open(bound / 2);
  EXPECT_LE(smaller->stats().bytes, bound / 2);
  EXPECT_EQ(std::ssize(files()), smaller->stats().records);
}

TEST_F(DiskStoreTest, RecordsThatDoNotFitTheQueueOrTheBoundAreDropped) {
  const auto store = open(3000);
  EXPECT_FALSE(store->save({kShare, {0, 1}}, 0, Record({}, 1, 4000)));
  EXPECT_EQ(store->stats().dropped, 1);
}

TEST_F(DiskStoreTest, TwoProcessesDoNotShareAFolder) {
  const auto store = open();
  const auto second = DiskStore::Open({.folder = folder_.string(), .bytes_max = 1 << 20});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(second.status()), HasSubstr(fmt::format("another process ({})", getpid())));
  EXPECT_THAT(Message(second.status()), HasSubstr("--kv-disk-dir"));
}

TEST_F(DiskStoreTest, LeftoversOfACrashAreDeletedAndStrangersFilesAreLeftAlone) {
  open();
  const auto share = folder_ / "00000000000000070000000000000008";
  std::filesystem::create_directories(share);
  std::ofstream(share / "00000000000000000000000000000001.kv.partial") << "half";
  std::ofstream(share / "notes.txt") << "mine";
  std::ofstream(folder_ / "notes.txt") << "mine";
  const auto store = open();
  EXPECT_EQ(store->stats().records, 0);
  EXPECT_THAT(files(".partial"), IsEmpty());
  EXPECT_THAT(files(".txt"), SizeIs(2));
}

TEST_F(DiskStoreTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_) << "a file";
  const auto store = DiskStore::Open({.folder = (folder_ / "below").string(), .bytes_max = 1 << 20});
  EXPECT_FALSE(store.ok());
  EXPECT_THAT(Message(store.status()), HasSubstr(folder_.string()));
}

TEST_F(DiskStoreTest, AFolderThatVanishesCostsRecordsAndNothingElse) {
  const auto store = open();
  Listener listener(*store);
  save(*store, listener, kThree);
  std::filesystem::remove_all(folder_);
  std::ofstream(folder_) << "a file";  // So that it can't be made again.
  EXPECT_THAT(listener.load(*store, order(kThree, 1)), IsEmpty());
  EXPECT_TRUE(store->save({kShare, {0, 9}}, 0, Record({}, 9)));
  const Deadline deadline = Deadline::after_ms(20'000);
  while (store->stats().errors < 2 && !deadline.expired()) std::this_thread::yield();
  EXPECT_GE(store->stats().errors, 2);
  EXPECT_FALSE(store->contains({kShare, {0, 9}}));
}

TEST(DiskRecord, AnyFlippedBitAndAnyCutIsFound) {
  const auto tokens = Tokens(33);
  std::vector<std::byte> record = Record(tokens, 1, 77);
  SealRecord({kShare, {1, 2}}, tokens.size(), record);
  const auto view = ParseRecord(record);
  ASSERT_TRUE(view.ok()) << ToString(view.status());
  EXPECT_TRUE(CheckRecord(*view, {kShare, {1, 2}}, tokens).ok());
  EXPECT_FALSE(CheckRecord(*view, {kShare, {1, 3}}, tokens).ok());
  EXPECT_FALSE(CheckRecord(*view, {{7, 9}, {1, 2}}, tokens).ok());
  EXPECT_FALSE(CheckRecord(*view, {kShare, {1, 2}}, Tokens(32)).ok());
  for (size_t i = 0; i < record.size(); ++i) {
    std::vector<std::byte> damaged = record;
    damaged[i] ^= std::byte{4};
    EXPECT_FALSE(ParseRecord(damaged).ok()) << i;
    EXPECT_FALSE(ParseRecord(std::span(record).first(i)).ok()) << i;
  }
}

}  // namespace
}  // namespace shoal
