#include "kv/block_image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

const ImageId kId{.identity = {1, 2}, .key = {3, 4}, .position = 64};

/// Layers of every kind: grouped heads, states, one head for all with keys of an indexer (sparse latent attention), blocks
/// and states.
std::unique_ptr<KvCache> MakeCache(DType dtype, Range layers = {3, 7}) {
  auto cache =
      KvCache::Create(layers, {{2, 16}, {.state_values = 48}, {1, 80, 0, 24}, {1, 16, 32}}, dtype, 4, 3);
  EXPECT_TRUE(cache.ok()) << cache.status();
  return *std::move(cache);
}

std::span<std::byte> ValuesOf(KvCache& cache, int32_t layer, const CachePlace& place) {
  const LayerId id{layer};
  if (const SlotId* slot = std::get_if<SlotId>(&place)) {
    return {reinterpret_cast<std::byte*>(cache.state(id, *slot)), static_cast<size_t>(cache.slot_bytes(id))};
  }
  return {cache.keys(id, std::get<BlockId>(place)), static_cast<size_t>(cache.block_bytes(id))};
}

void Fill(std::span<std::byte> bytes, uint64_t seed) {
  RandomStream random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
}

class BlockImage : public ::testing::TestWithParam<DType> {};

TEST_P(BlockImage, ABlockAndAStateComeBackBitByBitInAnotherPlace) {
  const auto from = MakeCache(GetParam());
  const auto to = MakeCache(GetParam());
  for (const int32_t layer : {3, 5, 6})
    Fill(ValuesOf(*from, layer, BlockId{1}), 10 + static_cast<uint64_t>(layer));
  for (const int32_t layer : {4, 6})
    Fill(ValuesOf(*from, layer, SlotId{2}), 20 + static_cast<uint64_t>(layer));
  from->set_state_position(SlotId{2}, 64);
  for (const auto& [source, target] : {std::pair<CachePlace, CachePlace>(BlockId{1}, BlockId{3}),
                                       std::pair<CachePlace, CachePlace>(SlotId{2}, SlotId{0})}) {
    std::vector<std::byte> images;
    ASSERT_TRUE(ExportImages(*from, source, kId, images).ok());
    EXPECT_EQ(std::ssize(images), ImagesBytes(*from, source));
    const absl::Status imported = ImportImages(*to, target, kId, images);
    ASSERT_TRUE(imported.ok()) << ToString(imported);
  }
  for (const int32_t layer : {3, 5, 6}) {
    EXPECT_TRUE(std::ranges::equal(ValuesOf(*from, layer, BlockId{1}), ValuesOf(*to, layer, BlockId{3})))
        << layer;
    for (const int32_t other : {0, 1, 2}) {
      EXPECT_TRUE(std::ranges::all_of(ValuesOf(*to, layer, BlockId{other}),
                                      [](std::byte byte) { return byte == std::byte{0}; }));
    }
  }
  for (const int32_t layer : {4, 6}) {
    EXPECT_TRUE(std::ranges::equal(ValuesOf(*from, layer, SlotId{2}), ValuesOf(*to, layer, SlotId{0})));
  }
  EXPECT_EQ(to->state_position(SlotId{0}), 64);
}

INSTANTIATE_TEST_SUITE_P(DTypes, BlockImage,
                         ::testing::Values(DType::kF16, DType::kBF16, DType::kF32, DType::kI8),
                         [](const auto& dtype) { return std::string(DTypeName(dtype.param)); });

TEST(BlockImageRefusal, WhateverIsOfAnotherCacheIsNamedAndNothingIsStored) {
  const auto from = MakeCache(DType::kF16);
  Fill(ValuesOf(*from, 3, BlockId{1}), 1);
  std::vector<std::byte> image;
  ExportImage(*from, LayerId{3}, BlockId{1}, kId, image);
  const auto refused = [&](KvCache& cache, int32_t layer, const ImageId& id) {
    const auto result = ImportImage(cache, LayerId{layer}, BlockId{0}, id, image);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(std::ranges::all_of(ValuesOf(cache, layer, BlockId{0}),
                                    [](std::byte byte) { return byte == std::byte{0}; }));
    return Message(result.status());
  };
  const auto same = MakeCache(DType::kF16);
  EXPECT_THAT(refused(*same, 5, kId), HasSubstr("layer: expected 5, got 3"));
  EXPECT_THAT(refused(*same, 3, {{9, 2}, kId.key, 64}), HasSubstr("model, numerics class"));
  EXPECT_THAT(refused(*same, 3, {kId.identity, {3, 5}, 64}), HasSubstr("key of the tokens"));
  EXPECT_THAT(refused(*same, 3, {kId.identity, kId.key, 32}), HasSubstr("position: expected 32, got 64"));
  EXPECT_THAT(refused(*MakeCache(DType::kBF16), 3, kId), HasSubstr("dtype: expected bf16, got f16"));
  const auto wider = *KvCache::Create({3, 4}, {{4, 16}}, DType::kF16, 2);
  EXPECT_THAT(refused(*wider, 3, kId), HasSubstr("shape: expected 4 heads of 16"));
  const auto indexed = *KvCache::Create({3, 4}, {{2, 16, 0, 8}}, DType::kF16, 2);
  EXPECT_THAT(refused(*indexed, 3, kId), HasSubstr("2 heads of 16, 8 of an indexer"));
}

TEST(BlockImageRefusal, AStateIsNoBlock) {
  const auto cache = *KvCache::Create({0, 1}, {{.state_values = 16}}, DType::kF16, 1, 1);
  const auto blocks = *KvCache::Create({0, 1}, {{1, 16}}, DType::kF16, 1, 1);
  std::vector<std::byte> image;
  ExportImage(*cache, LayerId{0}, SlotId{0}, kId, image);
  EXPECT_THAT(Message(ImportImage(*blocks, LayerId{0}, BlockId{0}, kId, image).status()),
              HasSubstr("kind: expected a block, got a state"));
}

TEST(BlockImageRefusal, AnyFlippedBitAndAnyCutIsFound) {
  const auto cache = *KvCache::Create({0, 1}, {{1, 16}}, DType::kF16, 1);
  Fill(ValuesOf(*cache, 0, BlockId{0}), 3);
  std::vector<std::byte> image;
  ExportImage(*cache, LayerId{0}, BlockId{0}, kId, image);
  ASSERT_TRUE(ParseImage(image).ok());
  for (size_t i = 0; i < image.size(); ++i) {
    std::vector<std::byte> damaged = image;
    damaged[i] ^= std::byte{1};
    EXPECT_FALSE(ParseImage(damaged).ok()) << i;
  }
  for (size_t size = 0; size < image.size(); ++size) {
    EXPECT_FALSE(ParseImage(std::span(image).first(size)).ok()) << size;
  }
}

TEST(BlockImageRefusal, MoreOrFewerLayersThanAreHeldAreRefused) {
  const auto cache = MakeCache(DType::kF16);
  std::vector<std::byte> images;
  ASSERT_TRUE(ExportImages(*cache, BlockId{0}, kId, images).ok());
  std::vector<std::byte> more = images;
  more.push_back(std::byte{0});
  EXPECT_THAT(Message(ImportImages(*cache, BlockId{0}, kId, more)), HasSubstr("1 bytes are left"));
  images.resize(images.size() / 2);
  EXPECT_FALSE(ImportImages(*cache, BlockId{0}, kId, images).ok());
}

TEST(BlockImageRefusal, ASlotThatHoldsAnotherStateIsNotExportedAndAFailedImportLeavesNone) {
  const auto cache = MakeCache(DType::kF16);
  cache->set_state_position(SlotId{1}, 32);
  std::vector<std::byte> images;
  EXPECT_THAT(Message(ExportImages(*cache, SlotId{1}, kId, images)),
              HasSubstr("behind 32 tokens, expected 64"));
  EXPECT_TRUE(images.empty());
  EXPECT_FALSE(ImportImages(*cache, SlotId{1}, kId, images).ok());
  EXPECT_EQ(cache->state_position(SlotId{1}), -1);
}

}  // namespace
}  // namespace shoal
