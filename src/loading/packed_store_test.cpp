// A store gives back the bytes that were packed, or says that it has none; whatever happened to its files.
#include "loading/packed_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "loading/resolved_weights.h"
#include "loading/weight_loader.h"

namespace shoal {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

/// Of 4 and 6 bits and floats, experts in stacks. It lies in the sources, and has not been touched for more
/// than two seconds.
const ResolvedWeights& MixedModel() {
  static const auto model =
      *ResolvedWeights::Open(std::string(SHOAL_SOURCE_DIR) + "/tests/goldens/models/qwen3_moe/plain-mixed46");
  return *model;
}

/// Seven layers, most with 13 experts, each a tensor of its own; opened when it has not been touched for two
/// seconds.
const ResolvedWeights& ManyExperts() {
  static const auto model = [] {
    const std::string& folder = TinyCheckpoint("qwen3_moe", AffineFormat{4, 64});
    for (int i = 0; i < 100; ++i) {
      auto opened = *ResolvedWeights::Open(folder);
      if (opened->checkpoint().content_settled()) return opened;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ADD_FAILURE() << folder << " does not settle";
    return *ResolvedWeights::Open(folder);
  }();
  return *model;
}

using Slice = std::function<bool(const WeightUse&)>;
using Bytes = std::map<std::string, std::vector<uint8_t>>;

bool Everything(const WeightUse& /*use*/) { return true; }
Slice Layers(int64_t begin, int64_t end) {
  return
      [begin, end](const WeightUse& use) { return begin <= use.layer && use.layer < end && use.expert < 0; };
}
/// Experts [begin, end) of every layer.
Slice Experts(int64_t begin, int64_t end) {
  return [begin, end](const WeightUse& use) { return begin <= use.expert && use.expert < end; };
}

/// What one loading of a slice gave.
struct Loaded {
  Bytes bytes;  ///< Of every matrix.
  int64_t cached = 0;
  int64_t packed = 0;
  bool from_cache = false;
};

class PackedStoreTest : public ::testing::Test {
 protected:
  /// The matrices of `slice` through `store`, two at a time, as if they were multiplied together: stacked
  /// ones and others, of 4 and 6 bits and floats.
  Loaded Pack(PackedStore* store, const Slice& slice = Everything, int threads = 2) const {
    ThreadPool pool(threads);
    const WeightLoader loader(*model_, store);
    Loaded loaded;
    std::vector<StoredWeight> batch;
    const auto pack = [&] {
      const auto packed = loader.pack(batch, pool);
      ASSERT_TRUE(packed.ok()) << packed.status();
      for (size_t i = 0; i < batch.size(); ++i) {
        const PackedMatrix& matrix = (*packed)[i];
        loaded.bytes[fmt::format("{} {}", batch[i].source->name(), batch[i].source->index)] = {
            matrix.view().data, matrix.view().data + matrix.bytes()};
        loaded.packed += matrix.bytes();
      }
      batch.clear();
    };
    for (const ResolvedWeight& weight : model_->all()) {
      if (weight.stored.is_vector || !slice(weight.use)) continue;
      if (!batch.empty() && batch[0].unit.layer != weight.stored.unit.layer) pack();
      batch.push_back(weight.stored);
      if (batch.size() == 2) pack();
    }
    pack();
    if (store != nullptr) {
      loaded.cached = store->bytes_from_cache();
      loaded.packed -= loaded.cached;
      loaded.from_cache = store->from_cache();
    }
    return loaded;
  }
  std::unique_ptr<PackedStore> Open() const {
    auto store = std::make_unique<PackedStore>();
    store->open(cache_, model_->shared_checkpoint());
    return store;
  }
  /// A start: loads through the cache, and saves.
  Loaded Start(const Slice& slice = Everything, int threads = 2) const {
    const auto store = Open();
    Loaded loaded = Pack(store.get(), slice, threads);
    store->save();
    store->finish_saving();
    return loaded;
  }
  int64_t BytesOf(const Slice& slice) const {
    int64_t bytes = 0;
    for (const ResolvedWeight& weight : model_->all()) {
      if (!weight.stored.is_vector && slice(weight.use)) bytes += weight.packed_bytes;
    }
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
  /// The file of a unit.
  std::string path_of(const std::string& unit) const {
    for (const PackedCache::Item& item : cache_->list()) {
      if (item.identity.unit == unit) return item.path;
    }
    return "";
  }
  std::vector<std::string> units() const {
    std::vector<std::string> units;
    for (const PackedCache::Item& item : cache_->list()) units.push_back(item.identity.unit);
    std::ranges::sort(units);
    return units;
  }
  /// Turns one bit of a file over.
  static void Damage(const std::string& path, int64_t at) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(at);
    file.put(byte);
  }

  const ResolvedWeights* model_ = &ManyExperts();
  TempFolder folder_;
  std::shared_ptr<const PackedCache> cache_ =
      std::make_shared<const PackedCache>(PackedCache::Options{folder_.path()});
};

TEST_F(PackedStoreTest, ASecondStartHasTheBytesOfTheFirstWhateverTheNumberOfThreads) {
  for (const ResolvedWeights* model : {&ManyExperts(), &MixedModel()}) {
    model_ = model;
    const Bytes expected = Pack(nullptr).bytes;
    const Loaded first = Start();
    EXPECT_EQ(first.bytes, expected);
    EXPECT_EQ(first.cached, 0);
    const size_t count = files().size();
    for (const int threads : {1, 2, 3, 7}) {
      const Loaded again = Start(Everything, threads);
      EXPECT_EQ(again.bytes, expected) << threads << " threads";
      EXPECT_TRUE(again.from_cache);
      EXPECT_EQ(again.packed, 0);
    }
    EXPECT_EQ(files().size(), count);
  }
}

TEST_F(PackedStoreTest, EachLayerAndEachBlockOfExpertsHasAFile) {
  Start([](const WeightUse& use) { return use.layer == 1 || use.layer < 0; });
  EXPECT_THAT(units(), ::testing::ElementsAre("embedding", "experts [0, 8) of layer 1",
                                              "experts [8, 16) of layer 1", "head", "layer 1"));
}

TEST_F(PackedStoreTest, AShardThatMovesPacksOnlyTheLayersThatAreNew) {
  Start(Layers(0, 4));
  const Loaded moved = Start(Layers(2, 6));
  EXPECT_EQ(moved.bytes, Pack(nullptr, Layers(2, 6)).bytes);
  EXPECT_EQ(moved.cached, BytesOf(Layers(2, 4)));
  EXPECT_EQ(moved.packed, BytesOf(Layers(4, 6)));
  const Loaded all = Start(Layers(0, 6));
  EXPECT_TRUE(all.from_cache);
  EXPECT_EQ(all.bytes, Pack(nullptr, Layers(0, 6)).bytes);
}

TEST_F(PackedStoreTest, ExpertsThatAreNewArePackedAndTheBlocksFileKeepsTheOthers) {
  Start(Experts(0, 5));
  const Loaded moved = Start(Experts(3, 10));
  EXPECT_EQ(moved.bytes, Pack(nullptr, Experts(3, 10)).bytes);
  EXPECT_EQ(moved.cached, BytesOf(Experts(3, 5)));
  EXPECT_EQ(moved.packed, BytesOf(Experts(5, 10)));
  const Loaded all = Start(Experts(0, 10));  // Of which 0, 1 and 2 were not in the second shard.
  EXPECT_TRUE(all.from_cache);
  EXPECT_EQ(all.bytes, Pack(nullptr, Experts(0, 10)).bytes);
}

TEST_F(PackedStoreTest, NodesThatHaveOtherExpertsOfABlockAddToItsFile) {
  // Both look before either has written, as nodes of one process do.
  const auto even = Open();
  const auto odd = Open();
  Pack(even.get(), [](const WeightUse& use) { return use.expert >= 0 && use.expert % 2 == 0; });
  Pack(odd.get(), [](const WeightUse& use) { return use.expert >= 0 && use.expert % 2 == 1; });
  for (PackedStore* store : {even.get(), odd.get()}) {
    store->save();
    store->finish_saving();
  }
  EXPECT_TRUE(Start(Experts(0, 13)).from_cache);
}

TEST_F(PackedStoreTest, NodesThatSaveAtOnceLoseNothingOfOneAnother) {
  constexpr int kNodes = 4;
  const auto experts_of = [](int node) {
    return [node](const WeightUse& use) { return use.expert >= 0 && use.expert % kNodes == node; };
  };
  std::vector<std::unique_ptr<PackedStore>> stores;
  for (int node = 0; node < kNodes; ++node) {
    stores.push_back(Open());
    Pack(stores.back().get(), experts_of(node));
  }
  for (const auto& store : stores) store->save();
  for (const auto& store : stores) store->finish_saving();
  EXPECT_TRUE(Start(Experts(0, 13)).from_cache);
}

TEST_F(PackedStoreTest, WritersAtOnceLeaveWholeFilesThatServeTheNextStart) {
  const Bytes expected = Pack(nullptr).bytes;
  std::vector<std::thread> starts;
  for (int i = 0; i < 4; ++i) {
    starts.emplace_back([&] { EXPECT_EQ(Start().bytes, expected); });
  }
  for (std::thread& start : starts) start.join();
  for (const PackedCache::Item& item : cache_->list()) EXPECT_EQ(item.problem, "");
  const Loaded after = Start();
  EXPECT_TRUE(after.from_cache);
  EXPECT_EQ(after.bytes, expected);
}

TEST_F(PackedStoreTest, ADamagedByteAnywhereIsFoundAndOnlyItsFileIsMadeAnew) {
  const Bytes expected = Start().bytes;
  const std::string path = path_of("experts [8, 16) of layer 1");
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
  for (const int64_t at : {int64_t{0}, int64_t{40}, int64_t{4096}, size / 2, size - 1}) {
    Damage(path, at);
    const Loaded again = Start();
    EXPECT_FALSE(again.from_cache) << at;
    EXPECT_GT(again.packed, 0) << at;
    EXPECT_LT(again.packed, size) << at;
    EXPECT_EQ(again.bytes, expected) << at;
    EXPECT_TRUE(Start().from_cache) << at;
  }
}

TEST_F(PackedStoreTest, DamagedExpertsOfOthersAreNotCopied) {
  Start(Experts(0, 4));
  const std::string path = path_of("experts [0, 8) of layer 1");
  Damage(path, 4096);  // In the first of them.
  Start(Experts(4, 8));
  const Loaded all = Start(Experts(0, 8));
  EXPECT_EQ(all.bytes, Pack(nullptr, Experts(0, 8)).bytes);
  EXPECT_TRUE(Start(Experts(0, 8)).from_cache);
}

TEST_F(PackedStoreTest, ATruncatedFileIsFoundAndMadeAnew) {
  const Bytes expected = Start().bytes;
  const std::string path = path_of("layer 2");
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
  for (const int64_t left : {int64_t{0}, int64_t{31}, size / 2, size - 1}) {
    std::filesystem::resize_file(path, static_cast<uintmax_t>(left));
    const Loaded again = Start();
    EXPECT_FALSE(again.from_cache) << left;
    EXPECT_EQ(again.bytes, expected) << left;
    EXPECT_TRUE(Start().from_cache) << left;
  }
}

TEST_F(PackedStoreTest, AMatrixAskedForTwiceIsTheSameMemory) {
  PackedStore store;
  const WeightLoader loader(*model_, &store);
  ThreadPool pool(2);
  const StoredWeight& weight = model_->all()[0].stored;
  const auto first = loader.pack({&weight, 1}, pool);
  const auto second = loader.pack({&weight, 1}, pool);
  EXPECT_EQ(first->front().view().data, second->front().view().data);
}

TEST_F(PackedStoreTest, AFolderThatCannotBeWrittenCostsNothingButTheNextStart) {
  std::ofstream(folder_.path() + "/file") << "";
  cache_ = std::make_shared<const PackedCache>(PackedCache::Options{folder_.path() + "/file/below"});
  EXPECT_EQ(Start().bytes, Pack(nullptr).bytes);
  EXPECT_FALSE(Start().from_cache);
}

TEST_F(PackedStoreTest, AFullLimitCostsNothingButTheNextStart) {
  cache_ = std::make_shared<const PackedCache>(PackedCache::Options{folder_.path(), 1000});
  EXPECT_EQ(Start().bytes, Pack(nullptr).bytes);
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(PackedStoreTest, ALimitForPartOfAShardKeepsNoneOfIt) {
  Start(Layers(0, 4));
  const size_t count = files().size();
  const int64_t limit = BytesOf(Layers(0, 4)) + BytesOf(Layers(4, 5)) / 2;
  cache_ = std::make_shared<const PackedCache>(PackedCache::Options{folder_.path(), limit});
  EXPECT_EQ(Start(Layers(0, 5)).cached, BytesOf(Layers(0, 4)));
  EXPECT_THAT(files(), SizeIs(count));
}

TEST_F(PackedStoreTest, AStoreThatGoesWhileItSavesLeavesWholeFilesAlone) {
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
  CopyCheckpoint(model_->checkpoint().folder(), copy.path(), [](std::vector<EditableTensor>&) {});
  const auto model = Checkpoint::Open(copy.path());
  ASSERT_TRUE(model.ok()) << model.status();
  PackedStore store;
  store.open(cache_, *model);
  const PackedUnit unit{.kind = PackedUnit::Kind::kEmbedding};
  ASSERT_TRUE(store.place(unit, "w", {.dtype = DType::kF32}, 4, 4).ok());
  store.save();
  store.finish_saving();
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(PackedStoreTest, WhatAnotherStoreHoldsIsSharedAndOutlivesIt) {
  auto first = std::make_unique<PackedStore>();
  const Loaded part = Pack(first.get(), Layers(0, 2));
  PackedStore second;
  second.share(*first);
  const Loaded all = Pack(&second);
  EXPECT_EQ(all.bytes, Pack(nullptr).bytes);
  EXPECT_GT(all.packed, part.packed);
  int64_t shared = 0;
  ThreadPool pool(1);
  const WeightLoader from_first(*model_, first.get());
  const WeightLoader from_second(*model_, &second);
  for (const ResolvedWeight& weight : model_->all()) {
    if (weight.stored.is_vector || !Layers(0, 2)(weight.use)) continue;
    const auto one = from_first.pack({&weight.stored, 1}, pool);
    const auto other = from_second.pack({&weight.stored, 1}, pool);
    ASSERT_TRUE(one.ok() && other.ok());
    if ((*one)[0].view().data == (*other)[0].view().data) ++shared;
  }
  EXPECT_GT(shared, 0);
  first.reset();
  EXPECT_EQ(Pack(&second).bytes, all.bytes);
}

}  // namespace
}  // namespace shoal
