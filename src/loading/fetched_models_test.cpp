#include "loading/fetched_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/status.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";
constexpr char kOther[] = "f123456789abcdef0123456789abcdef";

ModelSkeleton Skeleton(int64_t bytes) {
  return {.files = {{"config.json", 2}, {"model.safetensors", bytes}},
          .pieces = {{0, 0, "{}"}, {1, 0, "header"}}};
}

std::shared_ptr<FetchedModels> OpenStore(const std::string& folder, int64_t limit = int64_t{1} << 30) {
  auto store = FetchedModels::Open({folder, limit});
  SHOAL_CHECK(store.ok());
  return *store;
}

TEST(RangeSet, HasWhatWasAddedInAnyOrder) {
  RangeSet set;
  for (const Range range : {Range{10, 20}, {40, 50}, {20, 30}, {5, 12}, {60, 60}}) set.add(range);
  EXPECT_THAT(set.list(), ElementsAre(Range{5, 30}, Range{40, 50}));
  EXPECT_TRUE(set.has({5, 30}) && set.has({41, 42}));
  EXPECT_FALSE(set.has({5, 31}) || set.has({30, 40}) || set.has({0, 6}) || set.has({39, 41}));
  set.add({0, 100});
  EXPECT_THAT(set.list(), ElementsAre(Range{0, 100}));
}

TEST(ModelSkeleton, OneThatLeadsOutOfItsFolderIsRefused) {
  EXPECT_TRUE(CheckSkeleton(Skeleton(100)).ok());
  for (const std::string name :
       {"../model.safetensors", "/etc/model.safetensors", "a/b.gguf", "", ".safetensors", "run.sh",
        "shoal-fetched.json", "x\n.gguf", std::string("x\0.gguf", 7).c_str()}) {
    ModelSkeleton skeleton = Skeleton(100);
    skeleton.files[1].name = name;
    EXPECT_FALSE(CheckSkeleton(skeleton).ok()) << name;
  }
  ModelSkeleton twice = Skeleton(100);
  twice.files[1].name = "config.json";
  EXPECT_FALSE(CheckSkeleton(twice).ok());
  EXPECT_FALSE(CheckSkeleton(Skeleton(-1)).ok());
  EXPECT_FALSE(CheckSkeleton(Skeleton(5)).ok()) << "a piece is longer than its file";
  EXPECT_FALSE(CheckSkeleton(Skeleton(INT64_MAX)).ok());
  ModelSkeleton beyond = Skeleton(100);
  beyond.pieces[1].begin = INT64_MAX - 2;
  EXPECT_FALSE(CheckSkeleton(beyond).ok());
}

TEST(ModelSkeleton, OfAFolderIsMuchSmallerThanTheFolderAndHasItsHeader) {
  auto checkpoint = Checkpoint::Open(TinyCheckpoint("qwen3_moe"));
  ASSERT_TRUE(checkpoint.ok());
  const auto skeleton = SkeletonOf(**checkpoint);
  ASSERT_TRUE(skeleton.ok()) << ToString(skeleton.status());
  EXPECT_LT(skeleton->bytes(), (*checkpoint)->total_bytes() / 4);
  EXPECT_EQ(skeleton->entry(), "");
  EXPECT_EQ(skeleton->files.front().name, "model.safetensors") << "files with tensors come first";
}

TEST(FetchedModels, ALargeModelTakesNoMoreOfTheDiskThanWasWritten) {
  const TempFolder folder;
  const auto store = OpenStore(folder.path());
  const auto model = *store->model(kHash);
  ASSERT_TRUE(model->begin(Skeleton(int64_t{1} << 36), "content").ok());
  const std::string file = folder.path() + "/" + kHash + "/model.safetensors";
  EXPECT_EQ(std::filesystem::file_size(file), uint64_t{1} << 36);
  const FilePlace place{1, {int64_t{1} << 35, (int64_t{1} << 35) + 3}};
  EXPECT_FALSE(model->written(place));
  const std::vector<std::byte> bytes(3, std::byte{7});
  ASSERT_TRUE(model->write(place, bytes).ok());
  EXPECT_TRUE(model->written(place));
  EXPECT_TRUE(store->make_room(kHash, 1 << 20).ok());
}

TEST(FetchedModels, WhatWasVerifiedIsRememberedUnlessTheFilesChanged) {
  const TempFolder folder;
  const FilePlace place{1, {10, 20}};
  const std::vector<std::byte> bytes(10, std::byte{7});
  const auto fill = [&](FetchedModel& model) {
    ASSERT_TRUE(model.begin(Skeleton(100), "content").ok());
    ASSERT_TRUE(model.write(place, bytes).ok());
    model.note_verified(place);
    ASSERT_TRUE(model.keep().ok());
  };
  fill(**OpenStore(folder.path())->model(kHash));
  {
    const auto store = OpenStore(folder.path());
    const auto model = *store->model(kHash);
    EXPECT_TRUE(model->begun_for("content"));
    EXPECT_FALSE(model->begun_for("another content"));
    EXPECT_TRUE(model->verified(place));
    EXPECT_FALSE(model->verified({1, {10, 21}}));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // File systems count time in ticks.
  std::fstream(folder.path() + "/" + kHash + "/model.safetensors", std::ios::in | std::ios::out).put('X');
  const auto store = OpenStore(folder.path());
  const auto model = *store->model(kHash);
  EXPECT_FALSE(model->begun_for("content"));
  EXPECT_FALSE(model->verified(place));
  ASSERT_TRUE(model->begin(Skeleton(100), "content").ok());
  std::vector<std::byte> there(10);
  ASSERT_TRUE(model->read(place, there).ok());
  EXPECT_EQ(there, bytes) << "what is there is kept, to be compared";
  std::vector<std::byte> header(6);
  ASSERT_TRUE(model->read({1, {0, 6}}, header).ok());
  EXPECT_EQ(header[0], std::byte{'h'}) << "a damaged header is mended";
}

TEST(FetchedModels, TheModelThatRestedLongestMakesRoom) {
  const TempFolder folder;
  const auto store = OpenStore(folder.path(), 300'000);
  const std::vector<std::byte> bytes(200'000, std::byte{7});
  {
    const auto model = *store->model(kOther);
    ASSERT_TRUE(model->begin(Skeleton(1'000'000), "content").ok());
    ASSERT_TRUE(model->write({1, {0, 200'000}}, bytes).ok());
    EXPECT_THAT(ToString(store->make_room(kHash, 200'000)),
                AllOf(HasSubstr("--weights-cache-limit"), HasSubstr("more are needed")))
        << "it is in use";
  }
  EXPECT_TRUE(store->make_room(kHash, 200'000).ok());
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/" + kOther));
  EXPECT_EQ(store->make_room(kHash, 400'000).code(), absl::StatusCode::kResourceExhausted);
}

TEST(FetchedModels, AFolderIsOfOneProcessAndAHashIsNoPath) {
  const TempFolder folder;
  const auto store = OpenStore(folder.path());
  EXPECT_EQ(FetchedModels::Open({folder.path()}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(store->model("../../0123456789abcdef01234567890").ok());
  EXPECT_FALSE(store->model("").ok());
}

}  // namespace
}  // namespace shoal
