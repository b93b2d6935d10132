// Experts come back as they were packed, whatever happened to the files that keep them.
#include "loading/expert_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "loading/weight_loader.h"
#include "numeric/memory.h"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using testing::Each;
using testing::HasSubstr;

/// A copy of a tiny model of its own, opened when its files have not been touched for two seconds.
class ExpertFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::copy(TinyCheckpoint("qwen3_moe", AffineFormat{4, 64}), model_folder_.path(),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    for (int i = 0; i < 200; ++i) {
      weights_ = *ResolvedWeights::Open(model_folder_.path());
      if (weights_->checkpoint().content_settled()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(weights_->checkpoint().content_settled());
    cache_ = std::make_shared<PackedCache>(PackedCache::Options{cache_folder_.path(), int64_t{1} << 30});
  }

  std::vector<std::vector<ExpertId>> all() const {
    std::vector<std::vector<ExpertId>> held;
    for (const LayerSpec& layer : weights_->spec().layers) {
      const MoeSpec* moe = MoeOf(layer);
      std::vector<ExpertId>& ids = held.emplace_back();
      for (int32_t e = 0; moe != nullptr && e < std::ssize(moe->experts); ++e) ids.push_back(ExpertId{e});
    }
    return held;
  }
  std::unique_ptr<ExpertFiles> open(std::shared_ptr<const PackedCache> cache) {
    auto files = ExpertFiles::Create(*weights_, all(), std::move(cache));
    EXPECT_TRUE(files.ok()) << files.status();
    ThreadPool pool(2);
    EXPECT_EQ((*files)->make_files(pool, {}, {}, 0), absl::OkStatus());
    return *std::move(files);
  }
  /// The bytes of an expert's matrices.
  static absl::StatusOr<std::string> Read(const ExpertFiles& files, int64_t number, bool packed_again) {
    const AlignedMemory memory = *AlignedMemory::Allocate(files.bytes_max());
    std::memset(memory.data(), 0x5a, static_cast<size_t>(memory.bytes()));
    ASSIGN_OR_RETURN(const ExpertFiles::Read read, files.read(number, memory.data()));
    EXPECT_EQ(read.packed_again, packed_again) << number;
    std::string bytes;
    for (const ExpertFiles::Matrix& matrix : files.matrices(number)) {
      const StoredWeight& weight = *matrix.weight;
      bytes.append(reinterpret_cast<const char*>(memory.data()) + matrix.offset,
                   static_cast<size_t>(PackedBytes(weight.format, weight.rows, weight.cols)));
    }
    EXPECT_EQ(std::ssize(bytes), read.bytes);
    return bytes;
  }
  /// As the loader packs them.
  std::string expected(const ExpertFiles& files, int64_t number) const {
    ThreadPool pool(1);
    std::string bytes;
    for (const ExpertFiles::Matrix& matrix : files.matrices(number)) {
      const PackedMatrix packed = (*WeightLoader(*weights_).pack({matrix.weight, 1}, pool))[0];
      bytes.append(reinterpret_cast<const char*>(packed.view().data), static_cast<size_t>(packed.bytes()));
    }
    return bytes;
  }
  std::vector<fs::path> packed() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(cache_folder_.path())) paths.push_back(entry.path());
    return paths;
  }

  TempFolder model_folder_;
  TempFolder cache_folder_;
  std::shared_ptr<const ResolvedWeights> weights_;
  std::shared_ptr<const PackedCache> cache_;
};

TEST_F(ExpertFilesTest, FilesAreMadeOnceAndGiveTheBytesThatPackingGives) {
  for (int start = 0; start < 2; ++start) {
    const auto files = open(cache_);
    const size_t count = packed().size();
    EXPECT_GT(count, 6);
    for (int64_t i = 0; i < files->count(); ++i) {
      ASSERT_EQ(*Read(*files, i, false), expected(*files, i)) << files->name(i);
    }
    EXPECT_EQ(packed().size(), count);
    EXPECT_EQ(files->source(), cache_folder_.path());
  }
}

TEST_F(ExpertFilesTest, WithoutACacheExpertsArePackedFromTheCheckpoint) {
  const auto files = open(nullptr);
  for (int64_t i = 0; i < files->count(); i += 5) EXPECT_EQ(*Read(*files, i, true), expected(*files, i));
  EXPECT_THAT(files->source(), HasSubstr(model_folder_.path()));
}

TEST_F(ExpertFilesTest, AFolderThatCannotBeWrittenIsAsNone) {
  const std::string file = cache_folder_.path() + "/file";
  std::ofstream(file) << "no folder";
  const auto files = open(std::make_shared<PackedCache>(PackedCache::Options{file + "/below", 1 << 30}));
  EXPECT_EQ(*Read(*files, 3, true), expected(*files, 3));
}

TEST_F(ExpertFilesTest, ACacheThatIsTooSmallIsLeftAlone) {
  const auto files = open(std::make_shared<PackedCache>(PackedCache::Options{cache_folder_.path(), 1 << 16}));
  EXPECT_TRUE(packed().empty());
  EXPECT_EQ(*Read(*files, 3, true), expected(*files, 3));
}

TEST_F(ExpertFilesTest, RoomIsMadeForAllFilesBeforeTheFirstIsWritten) {
  const int64_t bytes = open(cache_)->bytes();
  const std::vector<fs::path> made = packed();
  const fs::path another = cache_folder_.path() + "/" + std::string(32, '0') + ".packed";
  for (const fs::path& path : made) path == made[0] ? fs::rename(path, another) : (void)fs::remove(path);
  constexpr int64_t kAnothersBytes = 1 << 20;
  fs::resize_file(another, kAnothersBytes);
  const auto files = *ExpertFiles::Create(
      *weights_, all(),
      std::make_shared<PackedCache>(PackedCache::Options{cache_folder_.path(), bytes + kAnothersBytes - 1}));
  std::vector<bool> is_there;
  ThreadPool pool(2);
  EXPECT_EQ(files->make_files(
                pool, [&](int64_t) { is_there.push_back(fs::exists(another)); }, {}, 0),
            absl::OkStatus());
  EXPECT_THAT(is_there, Each(false));
  EXPECT_EQ(packed().size(), made.size());
}

TEST_F(ExpertFilesTest, AFileThatWasDamagedOrCutShortOrDeletedCostsTimeAlone) {
  const std::vector<std::pair<std::string, std::function<void(const fs::path&)>>> accidents = {
      {"damaged",
       [](const fs::path& path) {
         std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
         for (auto at = static_cast<std::streamoff>(fs::file_size(path)) - 1; at > 4096; at -= 700) {
           file.seekg(at);
           const int byte = file.get();
           file.seekp(at);
           file.put(static_cast<char>(byte ^ 4));
         }
       }},
      {"cut short", [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) / 2); }},
      {"deleted", [](const fs::path& path) { fs::remove(path); }},
  };
  for (const auto& [what, happens] : accidents) {
    SCOPED_TRACE(what);
    const auto files = open(cache_);
    EXPECT_TRUE(Read(*files, 0, false).ok());
    for (const fs::path& path : packed()) happens(path);
    for (int64_t i = 0; i < files->count(); i += 3) {
      EXPECT_EQ(*Read(*files, i, true), expected(*files, i)) << files->name(i);
    }
    const auto next = open(cache_);  // The next start makes them anew.
    EXPECT_EQ(*Read(*next, 0, false), expected(*next, 0));
  }
}

TEST_F(ExpertFilesTest, AnotherCheckpointInItsPlaceIsAnErrorAndNoWrongBits) {
  const auto files = open(nullptr);
  ASSERT_TRUE(Read(*files, 0, true).ok());
  for (const auto& entry : fs::directory_iterator(model_folder_.path())) {
    if (entry.path().extension() != ".safetensors") continue;
    const fs::path copy = entry.path().string() + ".new";
    fs::copy_file(entry.path(), copy);
    fs::rename(copy, entry.path());
  }
  const auto read = Read(*files, 0, true);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(ToString(read.status()), HasSubstr("start again"));
}

TEST_F(ExpertFilesTest, AnExpertThatTheLayerHasNotIsRefused) {
  auto held = all();
  held[1].push_back(ExpertId{999});
  EXPECT_EQ(ExpertFiles::Create(*weights_, held, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ExpertFilesTest, ThreadsReadAtTheSameTime) {
  const auto files = open(cache_);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int64_t i = 0; i < files->count(); i += 2) EXPECT_EQ(*Read(*files, i, false), expected(*files, i));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace shoal
