#include "sched/waiting_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <vector>

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class WaitingQueueTest : public ::testing::Test {
 protected:
  Sequence& add(const std::string& party, int priority = 0, int tokens = 10) {
    Sequence& sequence = sequences_.emplace_back();
    sequence.id = SeqId{next_++};
    sequence.request.party = party;
    sequence.request.priority = priority;
    sequence.request.prompt.resize(static_cast<size_t>(tokens));
    queue_.insert(sequence);
    return sequence;
  }
  /// Takes the first of the queue, and charges its prompt and `answer` tokens.
  SeqId admit(int64_t answer = 0) {
    Sequence& sequence = *WaitingQueue::Walk(queue_).next();
    queue_.erase(sequence);
    queue_.charge(sequence, std::ssize(sequence.request.prompt) + answer);
    sequence.started = true;
    return sequence.id;
  }
  std::vector<uint64_t> ids() const {
    std::vector<uint64_t> ids;
    for (const SeqId id : queue_.ids()) ids.push_back(id.value);
    return ids;
  }

  WaitingQueue queue_;
  std::deque<Sequence> sequences_;
  uint64_t next_ = 1;
};

TEST_F(WaitingQueueTest, OnePartyGoesByArrival) {
  for (int i = 0; i < 3; ++i) add("a");
  EXPECT_THAT(ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(queue_.size(), 3);
  EXPECT_EQ(queue_.fresh_tokens(), 30);
  admit();
  EXPECT_THAT(ids(), ElementsAre(2, 3));
  EXPECT_EQ(queue_.fresh(), 2);
}

TEST_F(WaitingQueueTest, ALowerPriorityNumberComesFirst) {
  add("a", 3);
  add("b", 0);
  add("a", -7);
  add("b", 3);
  EXPECT_THAT(ids(), ElementsAre(3, 2, 1, 4));
}

TEST_F(WaitingQueueTest, ThosePreemptedComeBeforeAllFreshOnesOfTheirPriority) {
  Sequence& first = add("flood");
  Sequence& second = add("flood");
  for (int i = 0; i < 2; ++i) admit(1000);
  add("other");
  add("other", -1);
  queue_.insert(second);
  queue_.insert(first);
  EXPECT_THAT(ids(), ElementsAre(4, 1, 2, 3));
  EXPECT_EQ(queue_.fresh(), 2);
  queue_.erase(first);
  EXPECT_THAT(ids(), ElementsAre(4, 2, 3));
}

TEST_F(WaitingQueueTest, APartyThatFloodsDoesNotHoldUpAnother) {
  for (int i = 0; i < 100; ++i) add("flood");
  for (int i = 0; i < 5; ++i) admit();
  add("late");
  add("late");
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(admit().value);
  EXPECT_THAT(order, ElementsAre(6, 101, 7, 102));
}

TEST_F(WaitingQueueTest, TokensAreSharedNotRequests) {
  for (int i = 0; i < 10; ++i) add("long", 0, 1000);
  for (int i = 0; i < 30; ++i) add("short", 0, 100);
  int longs = 0;
  for (int i = 0; i < 22; ++i) longs += admit().value <= 10 ? 1 : 0;
  EXPECT_EQ(longs, 2);
}

TEST_F(WaitingQueueTest, AnswersCountAsPromptsDo) {
  for (int i = 0; i < 3; ++i) add("talks");
  for (int i = 0; i < 3; ++i) add("asks");
  std::vector<uint64_t> order;
  order.push_back(admit(35).value);  // Of "talks".
  for (int i = 0; i < 3; ++i) order.push_back(admit().value);
  EXPECT_THAT(order, ElementsAre(1, 4, 5, 6));
}

TEST_F(WaitingQueueTest, APartyCannotSaveUp) {
  for (int i = 0; i < 60; ++i) add("busy");
  for (int i = 0; i < 40; ++i) admit();
  for (int i = 0; i < 10; ++i) add("idle till now");
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(admit().value);
  EXPECT_THAT(order, ElementsAre(41, 61, 42, 62));
}

TEST_F(WaitingQueueTest, APartyCannotSaveUpWhileNobodyWaitsEither) {
  for (int i = 0; i < 4; ++i) add("busy");
  for (int i = 0; i < 4; ++i) admit(100);
  for (int i = 0; i < 3; ++i) add("new");
  for (int i = 0; i < 3; ++i) add("busy");
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) order.push_back(admit().value);
  EXPECT_THAT(order, ElementsAre(5, 8, 6, 9));
}

TEST_F(WaitingQueueTest, OthersOvertakeALargeRequestByNoMoreThanTheirShare) {
  add("large", 0, 100'000);
  for (int i = 0; i < 2; ++i) add("small", 0, 10);
  queue_.charge(sequences_.front(), 5000);  // An answer of its party's.
  int overtaken = 0;
  while (true) {
    if (admit().value == 1) break;
    add("small", 0, 10);
    ASSERT_LT(++overtaken, 1000);
  }
  EXPECT_EQ(overtaken, 500);
}

TEST_F(WaitingQueueTest, AWalkGoesOnWhileSequencesAreTakenOut) {
  for (int i = 0; i < 4; ++i) add(i % 2 == 0 ? "a" : "b");
  WaitingQueue::Walk walk(queue_);
  Sequence* skipped = walk.next();
  EXPECT_EQ(skipped->id.value, 1u);
  while (Sequence* next = walk.next()) {
    queue_.erase(*next);
    queue_.charge(*next, 10);
  }
  EXPECT_THAT(ids(), ElementsAre(1));
  queue_.erase(*skipped);
  queue_.erase(*skipped);
  EXPECT_THAT(ids(), IsEmpty());
  EXPECT_EQ(queue_.size(), 0);
  EXPECT_EQ(queue_.fresh_tokens(), 0);
}

}  // namespace
}  // namespace shoal
