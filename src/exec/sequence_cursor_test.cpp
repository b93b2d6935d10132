#include "exec/sequence_cursor.h"

#include <gtest/gtest.h>

#include <numeric>

namespace shoal {
namespace {

std::vector<int32_t> Tokens(int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

TEST(SequenceCursor, EachSliceBeginsWhereTheOneBeforeEndedAndNamesTheBlocksThatItNeeds) {
  SequenceCursor cursor(SeqId{7}, {.blocks = IdsFrom(BlockId{4}, 2), .long_rope = true});
  SeqSlice slice = cursor.next(Tokens(32), false);
  EXPECT_EQ(slice.id, SeqId{7});
  EXPECT_EQ(slice.position, 0);
  EXPECT_EQ(slice.tokens, Tokens(32));
  EXPECT_EQ(slice.blocks, (std::vector<BlockId>{{4}}));
  EXPECT_EQ(slice.sample_from, kNoSample);
  EXPECT_TRUE(slice.long_rope);
  slice = cursor.next(Tokens(3), true);
  EXPECT_EQ(slice.position, 32);
  EXPECT_EQ(slice.blocks, (std::vector<BlockId>{{4}, {5}}));
  EXPECT_EQ(slice.sample_from, 2);  // After the last row alone.
  EXPECT_EQ(slice.state_from, kNoState);
  EXPECT_TRUE(slice.state_to.empty());
  EXPECT_EQ(cursor.position(), 35);
  EXPECT_EQ(cursor.state(), kNoState);
}

TEST(SequenceCursor, AStateGoesRoundTheSlots) {
  SequenceCursor cursor(SeqId{1}, {.blocks = IdsFrom(BlockId{0}, 1), .slots = {{3}, {9}, {6}}});
  std::vector<SlotId> written;
  for (int i = 0; i < 6; ++i) {
    const SlotId before = cursor.state();
    const SeqSlice slice = cursor.next(Tokens(2), false);
    EXPECT_EQ(slice.state_from, before);
    ASSERT_EQ(slice.state_to.size(), 1u);
    EXPECT_EQ(slice.state_to[0], (StateWrite{2 * i + 2, cursor.state()}));
    written.push_back(cursor.state());
  }
  for (size_t i = 3; i < written.size(); ++i) {
    EXPECT_EQ(written[i], written[i - 3]);
    EXPECT_NE(written[i], written[i - 1]);
    EXPECT_NE(written[i], written[i - 2]);
  }
}

TEST(SequenceCursor, GoesOnBehindWhatAnotherHasCached) {
  SequenceCursor first(SeqId{1}, {.blocks = {{5}, {2}}, .slots = {{0}, {1}}});
  first.next(Tokens(32), false);
  SequenceCursor second(SeqId{2}, {.blocks = {{5}}, .slots = {{2}, {3}}});
  second.start_at(32, first.state());
  second.add_blocks(IdsFrom(BlockId{8}, 1));
  const SeqSlice slice = second.next(Tokens(1), true);
  EXPECT_EQ(slice.position, 32);
  EXPECT_EQ(slice.blocks, (std::vector<BlockId>{{5}, {8}}));
  EXPECT_EQ(slice.state_from, first.state());
  EXPECT_NE(slice.state_to.at(0).slot, first.state());
}

TEST(SequenceCursor, ADraftedSliceKeepsTheStatesThatItMayGoBackTo) {
  SequenceCursor cursor(SeqId{1}, {.blocks = IdsFrom(BlockId{0}, 2), .slots = {{3}, {9}, {6}}});
  cursor.next(Tokens(5), true);
  ASSERT_EQ(cursor.state(), SlotId{9});
  SeqSlice slice = cursor.next_drafted(Tokens(1), Tokens(3));
  EXPECT_EQ(slice.position, 5);
  EXPECT_EQ(slice.tokens, (std::vector<int32_t>{100, 100, 101, 102}));
  EXPECT_EQ(slice.sample_from, 0);
  EXPECT_EQ(slice.state_from, SlotId{9});
  EXPECT_EQ(slice.state_to, (std::vector<StateWrite>{{6, {6}}, {9, {3}}}));
  EXPECT_EQ(cursor.position(), 9);  // All are right.
  cursor.go_back_to(8);             // Two are: what is kept before them is read, and they are fed again.
  EXPECT_EQ(cursor.position(), 6);
  EXPECT_EQ(cursor.state(), SlotId{6});
  slice = cursor.next_drafted(Tokens(3), Tokens(2));
  EXPECT_EQ(slice.position, 6);
  EXPECT_EQ(slice.sample_from, 2);
  EXPECT_EQ(slice.state_from, SlotId{6});
  EXPECT_EQ(slice.state_to, (std::vector<StateWrite>{{9, {3}}, {11, {9}}}));
  cursor.go_back_to(6);  // It failed: what it began with is still there.
  EXPECT_EQ(cursor.state(), SlotId{6});
  EXPECT_EQ(cursor.next(Tokens(3), true).state_to, (std::vector<StateWrite>{{9, {3}}}));
}

TEST(SequenceCursor, AMoreRoomyRingKeepsTheStatesOfTheFirstDraftsAndASnapshotNeedsNoSlotOfIt) {
  SequenceCursor cursor(SeqId{1}, {.blocks = IdsFrom(BlockId{0}, 2), .slots = IdsFrom(SlotId{0}, 5)});
  cursor.next(Tokens(30), true);
  const StateWrite snapshot{32, SlotId{40}};
  SeqSlice slice = cursor.next_drafted(Tokens(1), Tokens(6), {{snapshot}});
  EXPECT_EQ(slice.state_to, (std::vector<StateWrite>{{31, {2}}, snapshot, {33, {3}}, {37, {4}}}));
  cursor.go_back_to(32);
  EXPECT_EQ(cursor.state(), SlotId{40});
  slice = cursor.next(Tokens(1), true);
  EXPECT_EQ(slice.state_from, SlotId{40});
  EXPECT_NE(slice.state_to[0].slot, SlotId{40});
}

TEST(SequenceCursorDeathTest, TokensWithoutBlocksOrOneSlotAloneAreBugs) {
  SequenceCursor cursor(SeqId{1}, {.blocks = IdsFrom(BlockId{0}, 1)});
  cursor.next(Tokens(32), false);
  EXPECT_DEATH(cursor.next(Tokens(1), false), "CHECK failed");
  EXPECT_DEATH(SequenceCursor(SeqId{1}, {.slots = {{1}}}), "CHECK failed");
}

}  // namespace
}  // namespace shoal
