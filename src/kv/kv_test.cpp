#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

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

TEST(BlockPool, ThoseThatAreClaimedAreNotHandedOut) {
  BlockPool pool(5);
  pool.claim({{3}, {0}});
  EXPECT_EQ(pool.used_count(), 2);
  EXPECT_EQ(*pool.allocate(3), (std::vector<BlockId>{{1}, {2}, {4}}));
  EXPECT_TRUE(pool.verify().ok());
  pool.release({{3}});
  EXPECT_EQ(*pool.allocate(1), (std::vector<BlockId>{{3}}));
}

TEST(BlockPoolDeathTest, ClaimingWhatHasAnOwnerIsABug) {
  BlockPool pool(2);
  const auto held = pool.allocate(1);
  EXPECT_DEATH(pool.claim(*held), "CHECK failed");
}

TEST(BlocksFor, CoversEveryPosition) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(kBlockPositions), 1);
  EXPECT_EQ(BlocksFor(kBlockPositions + 1), 2);
}

TEST(KvCache, GivesEveryLayerAndBlockItsOwnBytes) {
  const std::vector<KvLayerShape> shapes = {{2, 16}, {1, 8, 0, 24}};
  for (const DType dtype : {DType::kF16, DType::kI8}) {
    auto cache = KvCache::Create({3, 5}, shapes, dtype, 3);
    ASSERT_TRUE(cache.ok()) << cache.status();
    // Of int8: whole panels of 32 columns of codes, and one scale of two bytes.
    EXPECT_EQ((*cache)->bytes_per_block(),
              kBlockPositions *
                  (dtype == DType::kF16 ? 2 * (2 * (2 * 16 + 8) + 24) : (2 * (2 + 1) + 1) * (32 + 2)));
    EXPECT_EQ((*cache)->block_bytes(LayerId{4}),
              kBlockPositions * (dtype == DType::kF16 ? 2 * (2 * 8 + 24) : (2 + 1) * (32 + 2)));
    std::vector<std::pair<std::byte*, size_t>> parts;
    for (int layer = 3; layer < 5; ++layer) {
      const KvLayerShape& shape = shapes[static_cast<size_t>(layer - 3)];
      const auto bytes = static_cast<size_t>(shape.kv_heads * KvHeadBytes(shape.head_dim, dtype));
      for (int block = 0; block < 3; ++block) {
        parts.emplace_back((*cache)->keys({layer}, {block}), bytes);
        parts.emplace_back((*cache)->values({layer}, {block}), bytes);
        if (shape.index_dim > 0) {
          parts.emplace_back((*cache)->index_keys({layer}, {block}),
                             static_cast<size_t>(KvHeadBytes(shape.index_dim, dtype)));
        }
      }
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      std::fill_n(parts[i].first, parts[i].second, static_cast<std::byte>(i + 1));
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      for (size_t b = 0; b < parts[i].second; ++b)
        ASSERT_EQ(parts[i].first[b], static_cast<std::byte>(i + 1));
    }
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

TEST(KvCache, ALayerMayKeepBlocksAndStates) {
  const auto make = [](int blocks, int slots) {
    return *KvCache::Create({2, 3}, {{1, 16, 32}}, DType::kF32, blocks, slots);
  };
  const auto old = make(3, 2);
  EXPECT_EQ(old->block_bytes(LayerId{2}), 2 * 32 * 16 * 4);
  EXPECT_EQ(old->slot_bytes(LayerId{2}), 32 * 4);
  EXPECT_EQ(old->bytes_per_block(), old->block_bytes(LayerId{2}));
  EXPECT_EQ(old->bytes_per_slot(), old->slot_bytes(LayerId{2}));
  for (int block = 0; block < 3; ++block) {
    std::fill_n(old->keys(LayerId{2}, BlockId{block}), old->block_bytes(LayerId{2}),
                static_cast<std::byte>(1 + block));
  }
  for (int slot = 0; slot < 2; ++slot)
    std::fill_n(old->state(LayerId{2}, SlotId{slot}), 32, static_cast<float>(7 + slot));
  const auto cache = make(5, 1);  // More of one, fewer of the other.
  EXPECT_EQ(cache->take_over(*old), (std::vector<LayerId>{{2}}));
  for (int block = 0; block < 5; ++block) {
    const std::byte expected{static_cast<uint8_t>(block < 3 ? 1 + block : 0)};
    const std::byte* const begin = cache->keys(LayerId{2}, BlockId{block});
    EXPECT_EQ(std::count(begin, begin + cache->block_bytes(LayerId{2}), expected),
              cache->block_bytes(LayerId{2}))
        << block;
  }
  const float* const state = cache->state(LayerId{2}, SlotId{0});
  EXPECT_EQ(std::count(state, state + 32, 7.0f), 32);
}

TEST(KvCache, ASlotHoldsNothingUntilItsPositionIsSet) {
  const auto cache = *KvCache::Create({0, 1}, {{.state_values = 16}}, DType::kF16, 0, 2);
  EXPECT_EQ(cache->state_position(SlotId{1}), -1);
  cache->set_state_position(SlotId{1}, 32);
  EXPECT_EQ(cache->state_position(SlotId{1}), 32);
  EXPECT_EQ(cache->state_position(SlotId{0}), -1);
}

/// Layers [4, 7), the middle one with blocks, the others with states: each byte says where it lies.
std::unique_ptr<KvCache> FilledCache(int blocks, int slots) {
  auto cache = *KvCache::Create({4, 7}, {{.state_values = 48}, {2, 128}, {.state_values = 16}}, DType::kF16,
                                blocks, slots);
  for (int block = 0; block < blocks; ++block) {
    std::byte* const begin = cache->keys(LayerId{5}, BlockId{block});
    std::fill_n(begin, cache->block_bytes(LayerId{5}), static_cast<std::byte>(1 + block));
  }
  for (int slot = 0; slot < slots; ++slot) {
    *cache->state(LayerId{4}, SlotId{slot}) = static_cast<float>(slot);
    *cache->state(LayerId{6}, SlotId{slot}) = static_cast<float>(100 + slot);
    cache->set_state_position(SlotId{slot}, 32 * slot);
  }
  return cache;
}

void ExpectFilled(const KvCache& cache, int blocks, int slots) {
  for (int block = 0; block < cache.blocks(); ++block) {
    const std::byte expected{static_cast<uint8_t>(block < blocks ? 1 + block : 0)};
    const std::byte* const begin = cache.keys(LayerId{5}, BlockId{block});
    EXPECT_EQ(std::count(begin, begin + cache.block_bytes(LayerId{5}), expected),
              cache.block_bytes(LayerId{5}))
        << "block " << block;
  }
  for (int slot = 0; slot < cache.state_slots(); ++slot) {
    EXPECT_EQ(cache.state_position(SlotId{slot}), slot < slots ? 32 * slot : -1);
    if (slot >= slots) continue;
    EXPECT_EQ(*cache.state(LayerId{6}, SlotId{slot}), static_cast<float>(100 + slot));
  }
}

std::unique_ptr<KvCache> FreshCache(int blocks, int slots) {
  return *KvCache::Create({4, 7}, {{.state_values = 48}, {2, 128}, {.state_values = 16}}, DType::kF16, blocks,
                          slots);
}

// 2 MiB and more have mappings of their own: 64 blocks of 32 KiB.
TEST(KvCache, BlocksAndStatesStayInACacheOfAnotherSize) {
  const std::vector<std::pair<int, int>> sizes = {{70, 70},  {70, 66}, {70, 3}, {3, 70},
                                                  {66, 200}, {3, 2},   {70, 0}};
  for (const auto& [before, after] : sizes) {
    SCOPED_TRACE(testing::Message() << before << " blocks become " << after);
    const auto old = FilledCache(before, 5);
    const auto cache = FreshCache(after, 3);
    EXPECT_EQ(cache->take_over(*old), (std::vector<LayerId>{{4}, {5}, {6}}));
    EXPECT_FALSE(old->has(LayerId{5}));
    ExpectFilled(*cache, std::min(before, after), 3);
    const auto again = FreshCache(after + 1, 6);
    again->take_over(*cache);
    ExpectFilled(*again, std::min(before, after), 3);
  }
}

TEST(KvCache, OnlyLayersOfTheSameFormAreTakenOver) {
  const auto old = FilledCache(70, 4);
  const auto cache = *KvCache::Create({5, 8}, {{2, 128}, {.state_values = 32}, {2, 128}}, DType::kF16, 70, 4);
  EXPECT_EQ(cache->take_over(*old), (std::vector<LayerId>{{5}}));
  EXPECT_EQ(*cache->keys(LayerId{5}, BlockId{69}), std::byte{70});
  EXPECT_TRUE(old->has(LayerId{4}) && !old->has(LayerId{5}) && old->has(LayerId{6}));
  EXPECT_EQ(*old->state(LayerId{4}, SlotId{3}), 3);
  const auto other =
      *KvCache::Create({4, 7}, {{.state_values = 48}, {2, 128}, {.state_values = 16}}, DType::kBF16, 70, 4);
  EXPECT_TRUE(other->take_over(*FilledCache(70, 4)).empty());
}

TEST(KvCache, WhatIsTrimmedIsGoneAndTheRestStays) {
  const auto old = FilledCache(70, 4);
  old->trim(66, 3);
  EXPECT_EQ(old->blocks(), 66);
  EXPECT_EQ(old->state_slots(), 3);
  ExpectFilled(*old, 66, 3);
  const auto cache = FreshCache(70, 4);
  EXPECT_EQ(cache->take_over(*old), (std::vector<LayerId>{{4}, {5}, {6}}));
  ExpectFilled(*cache, 66, 3);
}

TEST(KvCacheDeathTest, AskingALayerForWhatItDoesNotKeepIsABug) {
  const auto cache = *KvCache::Create({0, 2}, {{2, 16}, {.state_values = 16}}, DType::kF16, 1, 1);
  EXPECT_DEATH(cache->state(LayerId{0}, SlotId{0}), "state_values");
  EXPECT_DEATH(cache->state(LayerId{1}, SlotId{1}), "slot");
  EXPECT_DEATH(cache->keys(LayerId{1}, BlockId{0}), "kv_heads");
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
