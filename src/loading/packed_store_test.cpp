// A store gives back the bytes that were packed, or says that it has none; whatever happened to its file.
#include "loading/packed_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "loading/resolved_weights.h"
#include "loading/weight_loader.h"

namespace shoal {
namespace {

using ::testing::IsEmpty;

/// A model that lies in the sources, and has not been touched for more than two seconds.
const ResolvedWeights& Model() {
  static const auto model =
      *ResolvedWeights::Open(std::string(SHOAL_SOURCE_DIR) + "/tests/goldens/models/qwen3_moe/plain-mixed46");
  return *model;
}

class PackedStoreTest : public ::testing::Test {
 protected:
  PackedStoreTest() {
    // Two matrices at a time, as if they were multiplied together: stacked ones and others, of 4 and 6 bits
    // and floats.
    std::vector<StoredWeight> batch;
    for (const ResolvedWeight& weight : Model().all()) {
      if (weight.stored.is_vector || weight.use.role == "head") continue;
      batch.push_back(weight.stored);
      if (batch.size() == 2) batches_.push_back(std::exchange(batch, {}));
    }
  }

  using Bytes = std::vector<std::vector<uint8_t>>;
  /// The bytes of all matrices, through a store.
  Bytes Pack(PackedStore* store, int threads = 2, size_t batches_max = SIZE_MAX) const {
    ThreadPool pool(threads);
    const WeightLoader loader(Model(), store);
    Bytes bytes;
    for (size_t i = 0; i < std::min(batches_.size(), batches_max); ++i) {
      const auto packed = loader.pack(batches_[i], pool);
      EXPECT_TRUE(packed.ok()) << packed.status();
      for (const PackedMatrix& matrix : *packed) {
        bytes.emplace_back(matrix.view().data, matrix.view().data + matrix.bytes());
      }
    }
    return bytes;
  }
  std::unique_ptr<PackedStore> Open(int threads = 2, const std::string& shard = "all") const {
    ThreadPool pool(threads);
    auto store = std::make_unique<PackedStore>();
    store->open(cache_, Model().shared_checkpoint(), shard, pool);
    return store;
  }
  /// Packs into a new file; returns the bytes.
  Bytes Fill() const {
    const auto store = Open();
    const Bytes bytes = Pack(store.get());
    EXPECT_FALSE(store->from_cache());
    store->save();
    store->finish_saving();
    return bytes;
  }
  std::vector<std::string> files() const {
    std::vector<std::string> paths;
    if (!std::filesystem::exists(folder_.path())) return paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      paths.push_back(entry.path().string());
    }
    return paths;
  }
  /// Turns one bit of the only file over.
  void Damage(int64_t at) const {
    std::fstream file(files().at(0), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
  }

  TempFolder folder_;
  std::shared_ptr<const PackedCache> cache_ =
      std::make_shared<const PackedCache>(PackedCache::Options{folder_.path()});
  std::vector<std::vector<StoredWeight>> batches_;
};

TEST_F(PackedStoreTest, ASecondStoreHasTheBytesOfTheFirstWhateverTheNumberOfThreads) {
  const Bytes expected = Pack(nullptr);
  EXPECT_EQ(Fill(), expected);
  ASSERT_EQ(files().size(), 1u);
  for (const int threads : {1, 2, 3, 7}) {
    const auto store = Open(threads);
    EXPECT_EQ(Pack(store.get(), threads), expected) << threads << " threads";
    EXPECT_TRUE(store->from_cache());
    store->save();  // There is nothing to do.
    store->finish_saving();
  }
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(PackedStoreTest, ADamagedByteAnywhereIsFoundAndTheFileIsMadeAnew) {
  const Bytes expected = Fill();
  const auto size = static_cast<int64_t>(std::filesystem::file_size(files().at(0)));
  for (const int64_t at : {int64_t{0}, int64_t{40}, size / 5, size / 2, size - 1}) {
    Damage(at);
    const auto store = Open();
    EXPECT_FALSE(store->from_cache()) << at;
    EXPECT_EQ(Pack(store.get()), expected) << at;
    store->save();
    store->finish_saving();
    EXPECT_TRUE(Open()->from_cache()) << at;
  }
}

TEST_F(PackedStoreTest, ATruncatedFileIsFoundAndTheFileIsMadeAnew) {
  const Bytes expected = Fill();
  const auto size = static_cast<int64_t>(std::filesystem::file_size(files().at(0)));
  for (const int64_t left : {int64_t{0}, int64_t{31}, size / 2, size - 1}) {
    std::filesystem::resize_file(files().at(0), static_cast<uintmax_t>(left));
    EXPECT_FALSE(Open()->from_cache()) << left;
    EXPECT_EQ(Fill(), expected);
    EXPECT_TRUE(Open()->from_cache()) << left;
  }
}

TEST_F(PackedStoreTest, AnotherShardHasAFileOfItsOwn) {
  Fill();
  EXPECT_FALSE(Open(2, "a part")->from_cache());
  EXPECT_TRUE(Open(2, "all")->from_cache());
}

TEST_F(PackedStoreTest, AMatrixThatTheFileLacksIsPackedAndTheFileMadeAnew) {
  const Bytes expected = Pack(nullptr);
  {
    const auto part = Open();
    Pack(part.get(), 2, batches_.size() / 2);
    part->save();
    part->finish_saving();
  }
  const auto store = Open();
  EXPECT_TRUE(store->from_cache());  // As far as it has been asked.
  EXPECT_EQ(Pack(store.get()), expected);
  EXPECT_FALSE(store->from_cache());
  store->save();
  store->finish_saving();
  const auto whole = Open();
  EXPECT_EQ(Pack(whole.get()), expected);
  EXPECT_TRUE(whole->from_cache());
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(PackedStoreTest, AMatrixAskedForTwiceIsTheSameMemory) {
  PackedStore store;
  const WeightLoader loader(Model(), &store);
  ThreadPool pool(2);
  const StoredWeight& weight = batches_[0][0];
  const auto first = loader.pack({&weight, 1}, pool);
  const auto second = loader.pack({&weight, 1}, pool);
  EXPECT_EQ(first->front().view().data, second->front().view().data);
}

TEST_F(PackedStoreTest, AFolderThatCannotBeWrittenCostsNothingButTheNextStart) {
  std::ofstream(folder_.path() + "/file") << "";
  cache_ = std::make_shared<const PackedCache>(PackedCache::Options{folder_.path() + "/file/below"});
  EXPECT_EQ(Fill(), Pack(nullptr));
  EXPECT_FALSE(Open()->from_cache());
}

TEST_F(PackedStoreTest, AFullLimitCostsNothingButTheNextStart) {
  cache_ = std::make_shared<const PackedCache>(PackedCache::Options{folder_.path(), 1000});
  EXPECT_EQ(Fill(), Pack(nullptr));
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(PackedStoreTest, AStoreThatGoesWhileItSavesLeavesAWholeFileOrNone) {
  for (int i = 0; i < 20; ++i) {
    const auto store = Open();
    Pack(store.get());
    store->save();
  }
  for (const std::string& path : files()) EXPECT_TRUE(path.ends_with(".packed")) << path;
  for (const PackedCache::Item& item : cache_->list()) EXPECT_EQ(item.problem, "");
}

TEST_F(PackedStoreTest, AModelThatHasJustChangedIsNotKept) {
  const TempFolder copy;
  CopyCheckpoint(Model().checkpoint().folder(), copy.path(), [](std::vector<EditableTensor>&) {});
  const auto model = Checkpoint::Open(copy.path());
  ASSERT_TRUE(model.ok()) << model.status();
  ThreadPool pool(1);
  PackedStore store;
  store.open(cache_, *model, "all", pool);
  ASSERT_TRUE(store.place("w", {.dtype = DType::kF32}, 4, 4, 0).ok());
  store.save();
  store.finish_saving();
  EXPECT_THAT(files(), IsEmpty());
}

}  // namespace
}  // namespace shoal
