#include "kv/block_key.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <vector>

#include "base/random.h"
#include "numeric/cache_shape.h"

namespace shoal {
namespace {

std::vector<int32_t> Block(int32_t first) {
  std::vector<int32_t> tokens(kBlockPositions);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(BlockKey, EveryTokenAndEveryBlockBeforeIsInIt) {
  const std::vector<std::string_view> words = {"model", "shoal-cpu/1", "f16", "int8"};
  const BlockKey root = RootKey(CachesKey(words), false);
  std::set<BlockKey> seen = {root};
  EXPECT_TRUE(seen.insert(KeyAfter(root, Block(0))).second);
  for (size_t at = 0; at < static_cast<size_t>(kBlockPositions); ++at) {
    std::vector<int32_t> other = Block(0);
    other[at] += 1 << 20;
    EXPECT_TRUE(seen.insert(KeyAfter(root, other)).second) << at;
  }
  std::vector<int32_t> swapped = Block(0);
  std::swap(swapped[3], swapped[30]);
  EXPECT_TRUE(seen.insert(KeyAfter(root, swapped)).second);
  EXPECT_TRUE(seen.insert(KeyAfter(KeyAfter(root, Block(0)), Block(0))).second);
  EXPECT_EQ(KeyAfter(root, Block(0)), KeyAfter(root, Block(0)));
}

TEST(BlockKey, WhateverDecidesTheBitsIsInTheRoot) {
  const auto caches = [](std::vector<std::string_view> words) { return CachesKey(words); };
  std::set<BlockKey> seen;
  for (const BlockKey& key :
       {caches({"model", "shoal-cpu/1", "f16", "int8"}), caches({"other", "shoal-cpu/1", "f16", "int8"}),
        caches({"model", "shoal-cpu/2", "f16", "int8"}), caches({"model", "shoal-cpu/1", "f32", "int8"}),
        caches({"model", "shoal-cpu/1", "f16", "f32"}), caches({"modelshoal-cpu/1", "", "f16", "int8"}),
        caches({"model", "shoal-cpu/1", "f16"}), caches({})}) {
    EXPECT_TRUE(seen.insert(RootKey(key, false)).second);
    EXPECT_TRUE(seen.insert(RootKey(key, true)).second);
  }
}

TEST(BlockKey, ManyDifferentBlocksHaveDifferentKeys) {
  RandomStream random(5);
  std::set<BlockKey> seen;
  std::set<uint64_t> low;
  BlockKey key = RootKey({}, false);
  for (int i = 0; i < 20'000; ++i) {
    key = KeyAfter(key, Block(static_cast<int32_t>(random.below(4))));
    EXPECT_TRUE(seen.insert(key).second);
    low.insert(key.low);  // Tables use it alone.
  }
  EXPECT_EQ(low.size(), seen.size());
}

TEST(BlockKeyDeathTest, APartOfABlockHasNone) { EXPECT_DEATH(KeyAfter({}, std::vector<int32_t>(31)), "31"); }

}  // namespace
}  // namespace shoal
