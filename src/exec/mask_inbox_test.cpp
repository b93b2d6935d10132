#include "exec/mask_inbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "base/status.h"
#include "exec/step_codec.h"

namespace shoal {
namespace {

using testing::HasSubstr;

TokenMask MaskOf(uint64_t id, int32_t position, uint32_t word) { return {SeqId{id}, position, {word}, {}}; }

/// An inbox whose pump hands out what the test has put on its way.
class MaskInboxTest : public testing::Test {
 protected:
  MaskInbox inbox_{{.vocabulary = 32, .timeout = std::chrono::milliseconds(20), .bytes_max = 4096},
                   [this](Deadline deadline) { return pump(deadline); }};

  void arrives(uint64_t step, std::vector<TokenMask> masks) {
    inbox_.on_masks(EncodeMasks(Epoch{1}, StepId{step}, masks));
  }
  absl::Status pump(Deadline deadline) {
    ++pumps_;
    if (!broken_.ok()) return broken_;
    if (on_its_way_.empty()) {
      while (!deadline.expired()) {
      }
      return DeadlineExceeded("nothing came");
    }
    inbox_.on_masks(on_its_way_.front());
    on_its_way_.pop_front();
    return absl::OkStatus();
  }

  std::deque<Frame> on_its_way_;
  absl::Status broken_;
  int pumps_ = 0;
};

TEST_F(MaskInboxTest, AMaskThatCameBeforeItsStepIsThereAtOnce) {
  arrives(3, {MaskOf(7, 11, 5), MaskOf(7, 12, 6), MaskOf(8, 11, 9)});
  inbox_.begin_step(StepId{3});
  EXPECT_EQ(**inbox_.wait_for(SeqId{7}, 12), MaskOf(7, 12, 6));
  EXPECT_EQ(**inbox_.wait_for(SeqId{8}, 11), MaskOf(8, 11, 9));
  EXPECT_EQ(pumps_, 0);
  EXPECT_EQ(inbox_.waited_ns(), 0);
}

TEST_F(MaskInboxTest, OneThatIsOnItsWayIsWaitedForAndOthersAreKept) {
  inbox_.begin_step(StepId{3});
  on_its_way_ = {EncodeMasks(Epoch{1}, StepId{4}, std::vector{MaskOf(7, 12, 2)}),
                 EncodeMasks(Epoch{1}, StepId{3}, std::vector{MaskOf(7, 11, 1)})};
  EXPECT_EQ(**inbox_.wait_for(SeqId{7}, 11), MaskOf(7, 11, 1));
  EXPECT_EQ(pumps_, 2);
  EXPECT_GT(inbox_.waited_ns(), 0);
  inbox_.begin_step(StepId{4});
  EXPECT_EQ(**inbox_.wait_for(SeqId{7}, 12), MaskOf(7, 12, 2));
  EXPECT_EQ(pumps_, 2);
}

TEST_F(MaskInboxTest, OneThatDoesNotComeIsAnErrorOfItsSequence) {
  inbox_.begin_step(StepId{3});
  const auto late = inbox_.wait_for(SeqId{7}, 11);
  ASSERT_TRUE(late.ok());
  EXPECT_EQ((*late)->status.code(), absl::StatusCode::kDeadlineExceeded);
  const int pumps = pumps_;
  EXPECT_FALSE((*inbox_.wait_for(SeqId{9}, 11))->status.ok());  // The step's time for masks is over.
  EXPECT_EQ(pumps_, pumps);
}

TEST_F(MaskInboxTest, WithoutTheCoordinatorNoneIsWaitedFor) {
  inbox_.begin_step(StepId{3});
  arrives(3, {MaskOf(7, 11, 1)});
  inbox_.on_lost(Unavailable("node 'head' is gone"));
  EXPECT_TRUE(inbox_.wait_for(SeqId{7}, 11).ok());
  EXPECT_THAT(Message(inbox_.wait_for(SeqId{8}, 11).status()), HasSubstr("node 'head' is gone"));
}

TEST_F(MaskInboxTest, AnInboxThatEndsEndsTheWait) {
  broken_ = Cancelled("closed here");
  EXPECT_EQ(inbox_.wait_for(SeqId{7}, 11).status(), broken_);
}

TEST_F(MaskInboxTest, WhatIsWrongOrLateOrTooMuchIsDropped) {
  inbox_.begin_step(StepId{3});
  arrives(2, {MaskOf(7, 10, 1)});                                // A step that is over.
  arrives(3, {{SeqId{7}, 11, {1, 1}, {}}});                      // More ids than there are.
  for (int i = 0; i < 1000; ++i) arrives(5, {MaskOf(7, i, 1)});  // Beyond its bytes.
  EXPECT_FALSE((*inbox_.wait_for(SeqId{7}, 11))->status.ok());
  inbox_.begin_step(StepId{5});
  EXPECT_TRUE((*inbox_.wait_for(SeqId{7}, 0))->status.ok());
  EXPECT_FALSE((*inbox_.wait_for(SeqId{7}, 999))->status.ok());
  inbox_.begin_step(StepId{6});  // Those of steps that are over make room again.
  arrives(6, {MaskOf(7, 12, 8)});
  EXPECT_EQ(**inbox_.wait_for(SeqId{7}, 12), MaskOf(7, 12, 8));
}

}  // namespace
}  // namespace shoal
