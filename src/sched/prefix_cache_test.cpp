#include "sched/prefix_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "sched/recency_list.h"

namespace shoal {
namespace {

std::vector<int32_t> Filled(int32_t token) { return std::vector<int32_t>(kBlockPositions, token); }

/// A tree, and sequences that hold paths of it: what the ledger does, without slots of sequences.
class PrefixCacheTest : public ::testing::Test {
 protected:
  struct Held {
    std::vector<BlockId> blocks;
    PrefixPlace deepest;
  };

  explicit PrefixCacheTest(int blocks = 8, int slots = 4)
      : blocks_(blocks), slots_(slots), cache_({}, blocks_, slots_) {}

  /// Holds the blocks of `tokens` (one number for each block), of which those that are missing are added.
  Held hold(const std::vector<int32_t>& tokens, bool long_rope = false) {
    Held held{{}, cache_.root(long_rope)};
    for (const int32_t token : tokens) {
      if (const auto next = cache_.next(held.deepest, Filled(token))) {
        cache_.take(*next);
        held.deepest = *next;
      } else {
        if (blocks_.free_count() == 0) cache_.evict(1);
        held.deepest = *cache_.add(held.deepest, Filled(token), (*blocks_.allocate(1))[0]);
      }
      held.blocks.push_back(cache_.block(held.deepest));
    }
    return held;
  }
  void leave(const Held& held) { cache_.give_back(held.blocks, held.deepest); }
  void visit(const std::vector<int32_t>& tokens) { leave(hold(tokens)); }
  /// How many blocks of `tokens` are cached.
  int64_t cached(const std::vector<int32_t>& tokens, bool long_rope = false) {
    PrefixPlace at = cache_.root(long_rope);
    int64_t count = 0;
    for (const int32_t token : tokens) {
      const auto next = cache_.next(at, Filled(token));
      if (!next.has_value()) break;
      at = *next;
      ++count;
    }
    return count;
  }
  void TearDown() override {
    EXPECT_TRUE(cache_.verify().ok()) << ToString(cache_.verify());
    EXPECT_TRUE(blocks_.verify().ok());
    EXPECT_TRUE(slots_.verify().ok());
  }

  BlockPool blocks_;
  SlotPool slots_;
  PrefixCache cache_;
};

TEST_F(PrefixCacheTest, WhatIsTakenOverIsFoundAgainInItsOrderOfUse) {
  visit({1, 2, 3});
  visit({1, 2, 4});
  visit({5});
  const Held third = hold({1, 2, 3});
  cache_.keep_state(third.deepest, (*slots_.allocate(1))[0]);
  leave(third);  // Used last: 4 goes first, then 5.
  BlockPool blocks(9);
  SlotPool slots(4);
  PrefixCache next({}, blocks, slots);
  next.take_over(cache_);
  EXPECT_TRUE(next.verify().ok()) << ToString(next.verify());
  EXPECT_TRUE(blocks.verify().ok() && slots.verify().ok());
  EXPECT_EQ(next.size(), 5);
  EXPECT_EQ(blocks.used_count(), 5);
  EXPECT_EQ(slots.used_count(), 1);
  const auto find = [&next](const std::vector<int32_t>& tokens) {
    PrefixPlace at = next.root(false);
    for (const int32_t token : tokens) {
      const auto found = next.next(at, Filled(token));
      if (!found.has_value()) return next.root(false);
      at = *found;
    }
    return at;
  };
  EXPECT_EQ(next.block(find({1, 2, 3})), third.blocks[2]);
  EXPECT_EQ(next.state(find({1, 2, 3})), SlotId{0});
  next.evict(1);
  EXPECT_TRUE(next.is_root(find({1, 2, 4})) && !next.is_root(find({5})));
  next.evict(1);
  EXPECT_TRUE(next.is_root(find({5})) && !next.is_root(find({1, 2, 3})));
  next.evict(3);
  EXPECT_EQ(blocks.used_count() + slots.used_count(), 0);
}

TEST_F(PrefixCacheTest, OfWhatIsTakenOverOnlyThatStaysForWhichThereIsAPlace) {
  visit({1, 2, 3});  // Blocks 0 to 2.
  visit({4, 5});     // 3 and 4.
  visit({1, 6});     // 5.
  const Held held = hold({1, 2, 3});
  for (int i = 0; i < 2; ++i) {
    cache_.keep_state(i == 0 ? held.deepest : cache_.before(held.deepest), (*slots_.allocate(1))[0]);
  }
  leave(held);
  BlockPool blocks(4);
  SlotPool slots(1);
  PrefixCache next({}, blocks, slots);
  next.take_over(cache_);
  EXPECT_TRUE(next.verify().ok()) << ToString(next.verify());
  EXPECT_EQ(next.size(), 4);    // Neither 4 nor 5.
  EXPECT_EQ(next.states(), 1);  // Not the one in slot 1.
}

TEST_F(PrefixCacheTest, ASequenceFindsTheBlocksThatItHasInCommonWithOthers) {
  visit({1, 2, 3});
  visit({1, 2, 4});
  visit({5});
  EXPECT_EQ(cached({1, 2, 3}), 3);
  EXPECT_EQ(cached({1, 2, 4, 9}), 3);
  EXPECT_EQ(cached({1, 3}), 1);
  EXPECT_EQ(cached({2, 3}), 0);  // The same tokens elsewhere are other blocks.
  EXPECT_EQ(cached({5, 1}), 1);
  EXPECT_EQ(cache_.size(), 5);
  EXPECT_EQ(cache_.unused(), 5);
}

TEST_F(PrefixCacheTest, LongRopeHasATreeOfItsOwn) {
  leave(hold({1, 2}, true));
  EXPECT_EQ(cached({1, 2}, false), 0);
  EXPECT_EQ(cached({1, 2}, true), 2);
}

TEST_F(PrefixCacheTest, FreeUsedAndCachedAreAllBlocks) {
  const Held held = hold({1, 2});
  visit({1, 2, 3, 4});
  EXPECT_EQ(blocks_.free_count(), 4);
  EXPECT_EQ(cache_.unused(), 2);
  EXPECT_EQ(blocks_.used_count() - cache_.unused(), 2);
  leave(held);
  EXPECT_EQ(cache_.unused(), 4);
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedLeafGoesFirst) {
  visit({1, 2, 3});
  visit({1, 4});
  visit({5, 6});
  visit({1, 2});
  cache_.evict(1);  // {1, 2, 3} was left first.
  EXPECT_EQ(cached({1, 2, 3}), 2);
  cache_.evict(1);
  EXPECT_EQ(cached({1, 4}), 1);
  cache_.evict(2);
  EXPECT_EQ(cached({5, 6}), 0);
  EXPECT_EQ(cached({1, 2}), 2);
  cache_.evict(1);
  EXPECT_EQ(cached({1, 2}), 1);  // Of a branch its end goes first.
  EXPECT_EQ(cache_.evictions(), 5);
}

TEST_F(PrefixCacheTest, BlocksInUseAreNeverEvicted) {
  const Held held = hold({1, 2});
  visit({1, 2, 3});
  visit({4});
  cache_.evict(2);
  EXPECT_EQ(cache_.unused(), 0);
  EXPECT_EQ(cached({1, 2, 3}), 2);
  EXPECT_DEATH(cache_.evict(1), "");
  leave(held);
}

TEST_F(PrefixCacheTest, AnEvictedBlockTakesItsStateAlong) {
  visit({1, 2});
  const PrefixPlace first = *cache_.next(cache_.root(false), Filled(1));
  const PrefixPlace second = *cache_.next(first, Filled(2));
  cache_.keep_state(first, (*slots_.allocate(1))[0]);
  cache_.keep_state(second, (*slots_.allocate(1))[0]);
  cache_.evict(1);
  EXPECT_EQ(slots_.used_count(), 1);
  EXPECT_NE(cache_.state(first), kNoState);
}

TEST_F(PrefixCacheTest, TheStateThatNobodyUsedForTheLongestTimeGoesFirst) {
  visit({1, 2, 3});
  std::vector<PrefixPlace> places;
  PrefixPlace at = cache_.root(false);
  for (const int32_t token : {1, 2, 3}) {
    at = *cache_.next(at, Filled(token));
    places.push_back(at);
    cache_.keep_state(at, (*slots_.allocate(1))[0]);
  }
  cache_.touch_state(places[0]);
  slots_.share(cache_.state(places[1]));  // A sequence reads it.
  const SlotId read = cache_.state(places[1]);
  EXPECT_EQ(cache_.evictable_states(places[0]), 1);
  EXPECT_TRUE(cache_.evict_state(places[0]));
  EXPECT_EQ(cache_.state(places[2]), kNoState);
  EXPECT_FALSE(cache_.evict_state(places[0]));
  cache_.demote_state(places[1]);
  slots_.release({read});
  EXPECT_TRUE(cache_.evict_state(cache_.root(false)));
  EXPECT_EQ(cache_.state(places[1]), kNoState);
  EXPECT_NE(cache_.state(places[0]), kNoState);
}

class LargerPrefixCacheTest : public PrefixCacheTest {
 protected:
  LargerPrefixCacheTest() : PrefixCacheTest(64) {}
};

// Against what a list of all paths says.
TEST_F(LargerPrefixCacheTest, RandomPathsAreFoundUntilTheyAreEvicted) {
  RandomStream random(3);
  std::vector<Held> held;
  for (int turn = 0; turn < 4000; ++turn) {
    std::vector<int32_t> path(1 + random.below(6));
    for (int32_t& token : path) token = static_cast<int32_t>(random.below(3));
    if (held.size() < 6) {
      const int32_t before = cache_.size();
      const auto known = cached(path);
      const int64_t evicted = cache_.evictions();
      held.push_back(hold(path));
      EXPECT_EQ(cached(path), std::ssize(path));
      EXPECT_EQ(cache_.size(), before + std::ssize(path) - known - (cache_.evictions() - evicted));
    } else {
      const auto at = static_cast<std::ptrdiff_t>(random.below(held.size()));
      leave(held[static_cast<size_t>(at)]);
      held.erase(held.begin() + at);
    }
    ASSERT_TRUE(cache_.verify().ok()) << ToString(cache_.verify());
    EXPECT_EQ(blocks_.free_count() + cache_.size(), 64);
  }
  EXPECT_GT(cache_.evictions(), 100);
  for (const Held& one : held) leave(one);
}

TEST(PrefixCache, TakesAtMost24BytesForEachTokenOfTheCache) {
  for (const int blocks : {64, 1000, 32768}) {
    BlockPool pool(blocks);
    SlotPool slots(0);
    const PrefixCache cache({}, pool, slots);
    EXPECT_LE(cache.bytes(), 24 * kBlockPositions * blocks);
  }
}

TEST(RecencyList, KeepsTheOrderOfUse) {
  RecencyList list(5);
  EXPECT_EQ(list.oldest(), RecencyList::kNone);
  for (const int32_t id : {3, 0, 4}) list.add_newest(id);
  list.add_oldest(1);
  list.remove(0);
  std::vector<int32_t> order;
  for (int32_t id = list.oldest(); id != RecencyList::kNone; id = list.newer(id)) order.push_back(id);
  EXPECT_EQ(order, (std::vector<int32_t>{1, 3, 4}));
  EXPECT_EQ(list.size(), 3);
  EXPECT_FALSE(list.contains(0));
  EXPECT_TRUE(list.contains(4));
}

}  // namespace
}  // namespace shoal
