#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.h"
#include "base/status.h"
#include "kv/block_pool.h"
#include "kv/kv_cache.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

TEST(BlockPool, HandsOutTheLowestIdsFirst) {
  BlockPool pool(8);
  EXPECT_EQ(*pool.allocate(3), (std::vector<BlockId>{{0}, {1}, {2}}));
  EXPECT_EQ(*pool.allocate(2), (std::vector<BlockId>{{3}, {4}}));
  pool.release({{1}, {4}});
  EXPECT_EQ(*pool.allocate(3), (std::vector<BlockId>{{1}, {4}, {5}}));
}

TEST(BlockPool, TakesNothingIfThereAreTooFewBlocks) {
  BlockPool pool(4);
  ASSERT_TRUE(pool.allocate(3).ok());
  const auto refused = pool.allocate(2);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(refused.status()), HasSubstr("1 of 4 free"));
  EXPECT_EQ(pool.free_count(), 1);
}

TEST(BlockPool, ASharedBlockIsFreeOnlyAfterItsLastOwner) {
  BlockPool pool(3);
  const std::vector<BlockId> blocks = *pool.allocate(2);
  pool.share(blocks[0]);
  EXPECT_EQ(pool.references(blocks[0]), 2);
  pool.release(blocks);
  EXPECT_EQ(pool.references(blocks[0]), 1);
  EXPECT_EQ(pool.references(blocks[1]), 0);
  EXPECT_EQ(pool.used_count(), 1);
  EXPECT_EQ(*pool.allocate(2), (std::vector<BlockId>{{1}, {2}}));
  pool.release({blocks[0]});
  EXPECT_EQ(pool.free_count(), 1);
  EXPECT_TRUE(pool.verify().ok());
}

TEST(BlockPool, OwnersAreCountedOverRandomUse) {
  BlockPool pool(37);
  RandomStream random(7);
  std::vector<std::vector<BlockId>> held;  // By owner. Owners may share blocks.
  for (int round = 0; round < 3000; ++round) {
    const auto pick = [&] { return static_cast<size_t>(random.below(held.size())); };
    const auto choice = random.below(3);
    if (choice == 0) {
      const int before = pool.free_count();
      auto blocks = pool.allocate(static_cast<int>(random.below(6)));
      if (!blocks.ok()) continue;
      for (const BlockId block : *blocks) EXPECT_EQ(pool.references(block), 1);
      EXPECT_EQ(pool.free_count(), before - std::ssize(*blocks));
      held.push_back(*blocks);
    } else if (choice == 1 && !held.empty()) {
      const std::vector<BlockId> shared = held[pick()];
      for (const BlockId block : shared) pool.share(block);
      held.push_back(shared);
    } else if (!held.empty()) {
      const size_t owner = pick();
      pool.release(held[owner]);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(owner));
    }
    ASSERT_TRUE(pool.verify().ok());
    std::map<BlockId, int> owners;
    for (const auto& blocks : held) {
      for (const BlockId block : blocks) ++owners[block];
    }
    ASSERT_EQ(pool.used_count(), std::ssize(owners));
    for (const auto& [block, count] : owners) ASSERT_EQ(pool.references(block), count);
  }
}

TEST(BlockPoolDeathTest, ReleasingOrSharingAFreeBlockIsABug) {
  BlockPool pool(2);
  EXPECT_DEATH(pool.release({{0}}), "CHECK failed");
  EXPECT_DEATH(pool.share(BlockId{0}), "CHECK failed");
  const auto blocks = pool.allocate(1);
  EXPECT_DEATH(pool.release({(*blocks)[0], (*blocks)[0]}), "CHECK failed");
}

TEST(BlocksFor, CoversEveryPosition) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(kBlockPositions), 1);
  EXPECT_EQ(BlocksFor(kBlockPositions + 1), 2);
}

TEST(KvCache, GivesEveryLayerAndBlockItsOwnBytes) {
  const std::vector<KvLayerShape> shapes = {{2, 16}, {1, 8}};
  auto cache = KvCache::Create({3, 5}, shapes, DType::kF16, 3);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ((*cache)->bytes_per_block(), 2 * kBlockPositions * 2 * (2 * 16 + 8));
  std::vector<std::pair<std::byte*, size_t>> parts;
  for (int layer = 3; layer < 5; ++layer) {
    const KvLayerShape& shape = shapes[static_cast<size_t>(layer - 3)];
    const size_t bytes = static_cast<size_t>(shape.kv_heads * shape.head_dim * kBlockPositions * 2);
    for (int block = 0; block < 3; ++block) {
      parts.emplace_back((*cache)->keys({layer}, {block}), bytes);
      parts.emplace_back((*cache)->values({layer}, {block}), bytes);
    }
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    std::fill_n(parts[i].first, parts[i].second, static_cast<std::byte>(i + 1));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    for (size_t b = 0; b < parts[i].second; ++b) ASSERT_EQ(parts[i].first[b], static_cast<std::byte>(i + 1));
  }
}

TEST(KvCache, LayersKeepBlocksOrStatesEachWithBytesOfItsOwn) {
  const auto cache =
      KvCache::Create({4, 7}, {{.state_values = 48}, {2, 16}, {.state_values = 16}}, DType::kF16, 3, 4);
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_EQ((*cache)->bytes_per_slot(), (48 + 16) * 4);
  EXPECT_EQ((*cache)->bytes_per_block(), 2 * 2 * 32 * 16 * 2);
  std::set<std::byte*> bytes;
  int64_t total = 0;
  const auto take = [&](void* data, int64_t count) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    for (int64_t i = 0; i < count; ++i) bytes.insert(static_cast<std::byte*>(data) + i);
    total += count;
  };
  for (int32_t slot = 0; slot < 4; ++slot) {
    take((*cache)->state(LayerId{4}, SlotId{slot}), 48 * 4);
    take((*cache)->state(LayerId{6}, SlotId{slot}), 16 * 4);
  }
  for (int32_t block = 0; block < 3; ++block)
    take((*cache)->keys(LayerId{5}, BlockId{block}), 2 * 2 * 32 * 16 * 2);
  EXPECT_EQ(std::ssize(bytes), total);
}

TEST(KvCache, ASlotHoldsNothingUntilItsPositionIsSet) {
  const auto cache = *KvCache::Create({0, 1}, {{.state_values = 16}}, DType::kF16, 0, 2);
  EXPECT_EQ(cache->state_position(SlotId{1}), -1);
  cache->set_state_position(SlotId{1}, 32);
  EXPECT_EQ(cache->state_position(SlotId{1}), 32);
  EXPECT_EQ(cache->state_position(SlotId{0}), -1);
}

TEST(KvCacheDeathTest, AskingALayerWithBlocksForAStateIsABug) {
  const auto cache = *KvCache::Create({0, 2}, {{2, 16}, {.state_values = 16}}, DType::kF16, 1, 1);
  EXPECT_DEATH(cache->state(LayerId{0}, SlotId{0}), "state_values");
  EXPECT_DEATH(cache->state(LayerId{1}, SlotId{1}), "slot");
}

TEST(KvCache, ReturnsResourceExhaustedIfMemoryIsRefused) {
  const auto cache = KvCache::Create({0, 1}, {{1 << 20, 1 << 10}}, DType::kF32, 1 << 30);
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(KvCacheDeathTest, ALayerOfAnotherNodeIsABug) {
  auto cache = KvCache::Create({3, 4}, {{1, 8}}, DType::kF32, 2);
  ASSERT_TRUE(cache.ok());
  EXPECT_DEATH((*cache)->keys({2}, {0}), "CHECK failed");
  EXPECT_DEATH((*cache)->keys({3}, {2}), "CHECK failed");
}

}  // namespace
}  // namespace shoal
