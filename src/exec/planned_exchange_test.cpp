#include "exec/planned_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <limits>
#include <map>
#include <thread>

#include "base/status.h"
#include "compute/testing/fake_backend.h"
#include "convert/testing/checkpoints.h"
#include "exec/awaited_reply.h"
#include "exec/model_facts.h"
#include "exec/step_codec.h"
#include "exec/testing/recording_transport.h"
#include "plan/rounding.h"

namespace shoal {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kWidth = 16;
constexpr Duration kTimeout = std::chrono::milliseconds(50);

/// Node 0 runs the layer and holds none of its four experts: node 1 owns 0 and 1, node 2 owns 2 and 3.
/// replicas: each holds the other's experts, too.
Plan RemotePlan(bool replicas = false) {
  Plan plan;
  plan.nodes = {{"asker", ""}, {"left", ""}, {"right", ""}};
  plan.stages = {{NodeId{0}, {0, 1}}};
  plan.experts = {{{NodeId{1}, {}}, {NodeId{1}, {}}, {NodeId{2}, {}}, {NodeId{2}, {}}}};
  for (ExpertHolders& holders : plan.experts[0]) {
    if (replicas) holders.replicas = {NodeId{3 - holders.owner.value}};
  }
  return plan;
}

/// Nothing of a model.
BackendLoad NoWeights() {
  BackendLoad load;
  load.weights = *ResolvedWeights::Open(TinyCheckpoint("qwen3_moe"));
  load.experts.resize(load.weights->spec().layers.size());
  return load;
}

class ExchangeTest : public testing::Test {
 protected:
  explicit ExchangeTest(Plan plan = RemotePlan())
      : plan_(std::move(plan)),
        exchange_({&plan_, NodeId{0}, session_.get(), &transport_, kTimeout, &use_},
                  [this](Deadline deadline) { return pump(deadline); }) {
    exchange_.begin_step(StepId{7}, arena_);
  }

  virtual absl::Status pump(Deadline) {
    if (inbox_.empty()) return DeadlineExceeded("nothing came");
    std::this_thread::sleep_for(Duration(wait_ns_));
    auto [from, frame] = std::move(inbox_.front());
    inbox_.pop_front();
    exchange_.on_reply(from, std::move(frame));
    return absl::OkStatus();
  }

  /// What `owner` answers to its only request: row r, element c is 1000 * owner + 10 * r + c, in units of 1.
  Frame answer_of(NodeId owner, int64_t compute_ns = 0) {
    const Frame& request = transport_.sent.at(owner).back();
    ExpertMessage message;
    EXPECT_EQ(DecodeExpertRequest(request, message), absl::OkStatus());
    std::vector<int64_t> sums;
    for (int64_t r = 0; r < static_cast<int64_t>(request.header.rows); ++r) {
      for (int64_t c = 0; c < kWidth; ++c) sums.push_back((1000 * owner.value + 10 * r + c) << 40);
    }
    return EncodeExpertReply(request.header, message.ticket, compute_ns,
                             MatView<const int64_t>(sums.data(), request.header.rows, kWidth));
  }

  /// Three rows: the first to experts 0 and 1 (both left), the second to 1 and 2, the third to 3 and 2 (both
  /// right).
  absl::StatusOr<ExpertExchange::Ticket> dispatch() {
    return exchange_.dispatch(
        LayerId{0}, {MatView<const float>(x_.data(), 3, kWidth), nullptr},
        {MatView<const int32_t>(ids_.data(), 3, 2), MatView<const float>(weights_.data(), 3, 2)});
  }
  absl::StatusOr<std::vector<float>> run(std::vector<NodeId> reply_order) {
    ASSIGN_OR_RETURN(const ExpertExchange::Ticket ticket, dispatch());
    for (const NodeId owner : reply_order) inbox_.emplace_back(owner, answer_of(owner));
    std::vector<float> y(3 * kWidth, 0.5f);
    const absl::Status combined = exchange_.combine(ticket, MatView<float>(y.data(), 3, kWidth));
    if (!combined.ok()) {
      EXPECT_EQ(y, std::vector<float>(3 * kWidth, 0.5f)) << "y changed although combine failed";
      return combined;
    }
    return y;
  }

  const Plan plan_;
  RecordingTransport transport_;
  FakeBackend backend_;
  const std::unique_ptr<BackendModel> model_ = *backend_.load(NoWeights());
  const std::unique_ptr<BackendSession> session_ = *model_->open({});
  Arena arena_;
  std::deque<std::pair<NodeId, Frame>> inbox_;
  std::vector<float> x_ = std::vector<float>(3 * kWidth, 1.0f);
  std::vector<int32_t> ids_ = {0, 1, 1, 2, 3, 2};
  std::vector<float> weights_ = {0.5f, 0.5f, 0.25f, 0.75f, 0.5f, 0.5f};
  ExpertUse use_{Range{0, 1}, {{4, 2}}};
  PlannedExchange exchange_;
  int64_t wait_ns_ = 0;  ///< Before each reply.
};

/// An event makes room in a full window: that of node 2.
class FullWindowTest : public ExchangeTest {
 protected:
  absl::Status pump(Deadline deadline) override {
    if (transport_.full == NodeId{-1}) return ExchangeTest::pump(deadline);
    transport_.full = NodeId{-1};
    exchange_.on_reply(NodeId{1}, answer_of(NodeId{1}));
    return absl::OkStatus();
  }
};

TEST_F(FullWindowTest, EventsAreHandledAndRepliesTakenWhileARequestWaitsForRoom) {
  ASSERT_TRUE(dispatch().ok());
  const auto undisturbed = transport_.sent;
  transport_.sent.clear();
  transport_.full = NodeId{2};
  const absl::StatusOr<std::vector<float>> y = run({NodeId{2}});
  ASSERT_TRUE(y.ok()) << ToString(y.status());
  for (const auto& [node, frames] : undisturbed) EXPECT_EQ(transport_.sent[node].size(), frames.size());
}

TEST_F(ExchangeTest, EachOwnerGetsOneMessageWithTheDistinctRowsItNeeds) {
  ASSERT_TRUE(run({NodeId{1}, NodeId{2}}).ok());
  ASSERT_EQ(transport_.sent.size(), 2u);
  for (const auto& [owner, frames] : transport_.sent) {
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(frames[0].header.rows, 2u);  // Rows 0 and 1 go left, 1 and 2 right.
    EXPECT_EQ(frames[0].header.step, StepId{7});
    ExpertMessage message;
    ASSERT_TRUE(DecodeExpertRequest(frames[0], message).ok());
    EXPECT_EQ(message.calls.size(), 3u);
  }
}

TEST_F(ExchangeTest, CountsWhatRowsNeedAndWhatIsSent) {
  ASSERT_TRUE(run({NodeId{1}, NodeId{2}}).ok());
  const std::vector<LayerUseCount> counts = use_.take();
  ASSERT_EQ(counts.size(), 1u);
  EXPECT_EQ(counts[0].use, (LayerUse{.top_k = 2, .rows = {1, 2, 2, 1}, .sample = {0, 1, 1, 2, 2, 3}}));
  EXPECT_EQ(counts[0].rows, (ExpertRowCounts{.rows = 3, .rows_local = 0, .rows_sent = 4, .messages = 2}));
}

TEST_F(ExchangeTest, ARowGoesNowhereForNoExpert) {
  ids_ = {0, kNoExpert, kNoExpert, kNoExpert, kNoExpert, 1};
  const auto y = run({NodeId{1}});
  ASSERT_TRUE(y.ok()) << ToString(y.status());
  ASSERT_EQ(transport_.sent.size(), 1u);
  EXPECT_EQ(transport_.sent.at(NodeId{1})[0].header.rows, 2u);
  EXPECT_EQ((*y)[kWidth], 0.5f);  // Row 1 as it was.
  EXPECT_EQ((*y)[2 * kWidth], 1010.5f);
  EXPECT_EQ(use_.take().at(0).use.rows, (std::vector<uint64_t>{1, 1, 0, 0}));
}

TEST_F(ExchangeTest, ResultDoesNotDependOnReplyOrder) {
  const auto forwards = run({NodeId{1}, NodeId{2}});
  const auto backwards = run({NodeId{2}, NodeId{1}});
  ASSERT_TRUE(forwards.ok() && backwards.ok());
  EXPECT_EQ(*forwards, *backwards);
  EXPECT_EQ((*forwards)[0], 1000.5f);                             // Row 0: left's first row alone.
  EXPECT_EQ((*forwards)[kWidth], 1010.0f + 2000.0f + 0.5f);       // Row 1: left's second and right's first.
  EXPECT_EQ((*forwards)[2 * kWidth + 3], 2010.0f + 3.0f + 0.5f);  // Row 2: right's second.
}

TEST_F(ExchangeTest, WaitingForAnOwnerIsOverheadUnlessItComputes) {
  constexpr int64_t kWaitNs = 2'000'000;
  wait_ns_ = kWaitNs;
  const auto overhead_ns = [this](int64_t computed_ns) {
    exchange_.begin_step(StepId{7}, arena_);
    const auto ticket = dispatch();
    EXPECT_TRUE(ticket.ok());
    inbox_.emplace_back(NodeId{1}, answer_of(NodeId{1}));
    inbox_.emplace_back(NodeId{2}, answer_of(NodeId{2}, computed_ns));
    std::vector<float> y(3 * kWidth);
    EXPECT_TRUE(exchange_.combine(*ticket, MatView<float>(y.data(), 3, kWidth)).ok());
    return exchange_.overhead_ns();
  };
  EXPECT_GT(overhead_ns(0), 2 * kWaitNs - kWaitNs / 10);  // Each answer came after a wait.
  // An owner that says it computed for longer than the whole took.
  EXPECT_EQ(overhead_ns(std::numeric_limits<int64_t>::max()), 0);
}

TEST_F(ExchangeTest, ASilentOwnerIsNamed) {
  const auto result = run({NodeId{1}});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(result.status()), StartsWith("node 'right' lost: no answer"));
}

TEST_F(ExchangeTest, ALostOwnerEndsTheWaitAtOnce) {
  ASSERT_TRUE(dispatch().ok());
  exchange_.on_lost(NodeId{2}, Unavailable("connection reset"));
  inbox_.emplace_back(NodeId{1}, answer_of(NodeId{1}));
  std::vector<float> y(3 * kWidth);
  const absl::Status status = exchange_.combine({1}, MatView<float>(y.data(), 3, kWidth));
  EXPECT_THAT(Message(status), StartsWith("node 'right' lost: connection reset, while node 'asker' waited "
                                          "for its experts at layer 0, step 7"));
  EXPECT_EQ(exchange_.loss().owner, NodeId{2});
  EXPECT_EQ(exchange_.loss().status, status);
}

TEST_F(ExchangeTest, AnOwnersErrorIsPassedOnWithItsName) {
  ASSERT_TRUE(dispatch().ok());
  const FrameHeader& request = transport_.sent.at(NodeId{1}).back().header;
  inbox_.emplace_back(
      NodeId{1}, EncodeExpertError(request, {1, OutOfRange("layer 0, expert 1: an output is not a number")}));
  std::vector<float> y(3 * kWidth);
  const absl::Status status = exchange_.combine({1}, MatView<float>(y.data(), 3, kWidth));
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(Message(status), HasSubstr("expert owner 'left': layer 0, expert 1"));
  EXPECT_TRUE(exchange_.loss().status.ok());  // What the rows hold is no fault of the owner.
}

TEST_F(ExchangeTest, AnOwnersErrorOfAnotherKindIsALostOwner) {
  ASSERT_TRUE(dispatch().ok());
  const FrameHeader& request = transport_.sent.at(NodeId{1}).back().header;
  inbox_.emplace_back(NodeId{1}, EncodeExpertError(request, {0, InvalidArgument("expert_request.group: 3")}));
  std::vector<float> y(3 * kWidth);
  const absl::Status status = exchange_.combine({1}, MatView<float>(y.data(), 3, kWidth));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(exchange_.loss().owner, NodeId{1});
}

// A layer in which both owners find a value out of range is run again, while the second's error is on its way.
TEST_F(ExchangeTest, AnErrorOfAnEarlierTicketIsNotTakenForThisOne) {
  ASSERT_TRUE(dispatch().ok());
  const FrameHeader request = transport_.sent.at(NodeId{2}).back().header;
  ASSERT_TRUE(dispatch().ok());
  inbox_.emplace_back(NodeId{2}, EncodeExpertError(request, {1, OutOfRange("an output is not a number")}));
  inbox_.emplace_back(NodeId{1}, answer_of(NodeId{1}));
  inbox_.emplace_back(NodeId{2}, answer_of(NodeId{2}));
  std::vector<float> y(3 * kWidth);
  EXPECT_EQ(exchange_.combine({2}, MatView<float>(y.data(), 3, kWidth)), absl::OkStatus());
}

TEST_F(ExchangeTest, AReplyOfAnEarlierTicketIsNotTakenForThisOne) {
  ASSERT_TRUE(run({NodeId{1}, NodeId{2}}).ok());
  const Frame stale = answer_of(NodeId{1});
  ASSERT_TRUE(dispatch().ok());
  inbox_.emplace_back(NodeId{1}, stale);
  inbox_.emplace_back(NodeId{2}, answer_of(NodeId{2}));
  std::vector<float> y(3 * kWidth);
  const absl::Status status = exchange_.combine({2}, MatView<float>(y.data(), 3, kWidth));
  EXPECT_THAT(Message(status), StartsWith("node 'left' lost: no answer"));
}

TEST_F(ExchangeTest, AReplyOfTheWrongShapeIsRefusedWithTheOwnersName) {
  ASSERT_TRUE(dispatch().ok());
  Frame wrong = answer_of(NodeId{1});
  wrong.header.rows = 1;
  inbox_.emplace_back(NodeId{1}, wrong);
  std::vector<float> y(3 * kWidth);
  const absl::Status status = exchange_.combine({1}, MatView<float>(y.data(), 3, kWidth));
  EXPECT_THAT(Message(status),
              StartsWith("node 'left' lost: expert_reply: expected 2 rows of 16, got 1 of 16"));
}

/// Owners that hold each other's experts, and compute: an expert gives what depends on it and on the row alone.
class ReplicaTest : public ExchangeTest {
 protected:
  ReplicaTest() : ExchangeTest(RemotePlan(true)) {
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(1 + i / kWidth);
  }

  /// What `owner` answers to the `index`-th message it got.
  Frame computed(NodeId owner, size_t index) {
    const Frame& request = transport_.sent.at(owner).at(index);
    ExpertMessage message;
    EXPECT_EQ(DecodeExpertRequest(request, message), absl::OkStatus());
    std::vector<int64_t> sums(request.header.rows * kWidth);
    for (const ExpertCall& call : message.calls) {
      for (int64_t c = 0; c < kWidth; ++c) {
        const float x = message.rows.x.at(call.row, c);
        sums[static_cast<size_t>(call.row * kWidth + c)] +=
            static_cast<int64_t>(call.weight * 8 * x * static_cast<float>(1 + call.expert.value * kWidth + c))
            << 36;
      }
    }
    return EncodeExpertReply(request.header, message.ticket, 0,
                             MatView<const int64_t>(sums.data(), request.header.rows, kWidth));
  }
  /// Answers to all messages that came, of those that are not `silent`.
  void answer_all(NodeId silent = NodeId{-1}) {
    for (const auto& [owner, frames] : transport_.sent) {
      for (size_t& next = answered_[owner]; next < frames.size(); ++next) {
        if (owner != silent) inbox_.emplace_back(owner, computed(owner, next));
      }
    }
  }
  /// As pump(), but whoever is not silent answers meanwhile.
  absl::Status pump(Deadline deadline) override {
    // Twenty heartbeats, each half a timeout after the one before; then it answers.
    if (beats_ > 0) {
      const Deadline half = Deadline::after(kTimeout / 2);
      while (!half.expired()) exchange_.on_heartbeat(NodeId{2});  // A look; not of the silent one.
      exchange_.on_heartbeat(NodeId{1});
      if (--beats_ == 0) silent_ = NodeId{-1};
      return absl::OkStatus();
    }
    if (std::exchange(stops_, false)) {
      std::this_thread::sleep_for(4 * kTimeout);
      return DeadlineExceeded("nothing came");
    }
    if (inbox_.empty()) answer_all(silent_);
    return ExchangeTest::pump(deadline);
  }
  absl::StatusOr<std::vector<float>> combined(absl::StatusOr<ExpertExchange::Ticket> ticket) {
    RETURN_IF_ERROR(ticket.status());
    std::vector<float> y(3 * kWidth, 0.5f);
    RETURN_IF_ERROR(exchange_.combine(*ticket, MatView<float>(y.data(), 3, kWidth)));
    return y;
  }
  size_t messages(int32_t owner) const {
    const auto found = transport_.sent.find(NodeId{owner});
    return found == transport_.sent.end() ? 0 : found->second.size();
  }

  NodeId silent_{-1};
  int beats_ = 0;
  bool stops_ = false;  ///< Before anything is read.
  std::map<NodeId, size_t> answered_;
};

TEST_F(ReplicaTest, TheOtherHolderAnswersForOneThatIsLostOnTheWay) {
  const auto undisturbed = combined(dispatch());
  ASSERT_TRUE(undisturbed.ok()) << ToString(undisturbed.status());
  EXPECT_EQ(messages(1), 1u);
  EXPECT_EQ(messages(2), 1u);

  silent_ = NodeId{2};
  const auto ticket = dispatch();
  exchange_.on_lost(NodeId{2}, Unavailable("connection reset"));
  EXPECT_EQ(combined(ticket), undisturbed);
  EXPECT_TRUE(exchange_.loss().status.ok());
  EXPECT_EQ(messages(1), 3u);  // Its own part, and that of the other.
  EXPECT_EQ(messages(2), 2u);
}

TEST_F(ReplicaTest, AllRowsOfAnExpertGoToTheSameHolderAndTheBusierOneGivesSomeAway) {
  ids_ = {0, 1, 1, 0, 1, 0};  // Node 1 owns both: 6 calls, of which node 2 can have half.
  ASSERT_TRUE(combined(dispatch()).ok());
  std::map<ExpertId, NodeId> holder;
  for (const auto& [owner, frames] : transport_.sent) {
    ExpertMessage message;
    ASSERT_TRUE(DecodeExpertRequest(frames.back(), message).ok());
    EXPECT_EQ(message.calls.size(), 3u);
    for (const ExpertCall& call : message.calls)
      EXPECT_EQ(holder.try_emplace(call.expert, owner).first->second, owner);
  }
  EXPECT_EQ(holder, (std::map<ExpertId, NodeId>{{ExpertId{0}, NodeId{2}}, {ExpertId{1}, NodeId{1}}}));
}

TEST_F(ReplicaTest, OneThatIsLostIsAskedNothingMore) {
  const auto undisturbed = combined(dispatch());
  exchange_.on_lost(NodeId{1}, Unavailable("connection reset"));
  for (int step = 8; step < 11; ++step) {
    exchange_.begin_step(StepId{static_cast<uint64_t>(step)}, arena_);
    EXPECT_EQ(combined(dispatch()), undisturbed);
  }
  EXPECT_EQ(messages(1), 1u);
  EXPECT_EQ(messages(2), 4u);
}

TEST_F(ReplicaTest, AnAnswerThatCameBeforeTheLossCounts) {
  const auto undisturbed = combined(dispatch());
  const auto ticket = dispatch();
  answer_all();
  while (!inbox_.empty()) ASSERT_TRUE(ExchangeTest::pump({}).ok());
  exchange_.on_lost(NodeId{2}, Unavailable("connection reset"));
  EXPECT_EQ(combined(ticket), undisturbed);
  EXPECT_EQ(messages(1), 2u);
}

TEST_F(ReplicaTest, ASilentHolderIsGivenUpAfterTheTimeoutAndItsLateAnswerIsDropped) {
  const auto undisturbed = combined(dispatch());
  silent_ = NodeId{1};
  EXPECT_EQ(combined(dispatch()), undisturbed);
  EXPECT_EQ(messages(1), 2u);
  const auto ticket = dispatch();
  inbox_.emplace_back(NodeId{1}, computed(NodeId{1}, 1));
  EXPECT_EQ(combined(ticket), undisturbed);
  EXPECT_EQ(messages(1), 2u);
}

TEST_F(ReplicaTest, AHolderThatIsSlowButShowsSignsOfLifeIsWaitedFor) {
  const auto undisturbed = combined(dispatch());
  silent_ = NodeId{1};
  beats_ = 20;
  EXPECT_EQ(combined(dispatch()), undisturbed);
  EXPECT_EQ(beats_, 0);
  EXPECT_EQ(messages(1), 2u);
  EXPECT_EQ(messages(2), 2u) << "the other was asked for what the slow one was to compute";
}

TEST_F(ReplicaTest, AnAskerThatDidNotRunForLongBlamesNobody) {
  const auto undisturbed = combined(dispatch());
  stops_ = true;
  EXPECT_EQ(combined(dispatch()), undisturbed);
  EXPECT_EQ(messages(1), 2u);
  EXPECT_EQ(messages(2), 2u);
}

TEST_F(ReplicaTest, ABrokenAnswerIsComputedByTheOther) {
  const auto undisturbed = combined(dispatch());
  const auto ticket = dispatch();
  Frame wrong = computed(NodeId{1}, 1);
  wrong.header.rows = 1;
  answered_[NodeId{1}] = 2;
  inbox_.emplace_back(NodeId{1}, wrong);
  EXPECT_EQ(combined(ticket), undisturbed);
}

TEST_F(ReplicaTest, OneThatCannotBeReachedIsDoneWithoutAtOnce) {
  const auto undisturbed = combined(dispatch());
  transport_.refuse = NodeId{2};
  EXPECT_EQ(combined(dispatch()), undisturbed);
  EXPECT_EQ(combined(dispatch()), undisturbed);
  EXPECT_EQ(messages(2), 1u);
}

TEST_F(ReplicaTest, WhatTheRowsHoldIsNotAskedOfTheOther) {
  const auto ticket = dispatch();
  const FrameHeader& request = transport_.sent.at(NodeId{1}).back().header;
  inbox_.emplace_back(NodeId{1}, EncodeExpertError(request, {1, OutOfRange("an output is not a number")}));
  EXPECT_EQ(combined(ticket).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(messages(2), 1u);
}

TEST_F(ReplicaTest, WhereBothAreLostTheLossNamesBothAndSuspectsTheLast) {
  const auto ticket = dispatch();
  exchange_.on_lost(NodeId{2}, Unavailable("connection reset"));
  exchange_.on_lost(NodeId{1}, Unavailable("no ping"));
  const absl::Status status = combined(ticket).status();
  EXPECT_EQ(
      Message(status),
      "node 'left' lost: no ping; node 'right' lost: connection reset, while node 'asker' waited for their "
      "experts at layer 0, step 7");
  EXPECT_EQ(exchange_.loss().owner, NodeId{1});
  EXPECT_EQ(exchange_.loss().status, status);
  EXPECT_EQ(dispatch().status(), status);
}

TEST(RowFormatOf, AFormatHasTheSameNameAndSizeInThePlanAndOnTheWire) {
  for (const Plan::WireDtype dtype : {Plan::WireDtype::kExact, Plan::WireDtype::kF16, Plan::WireDtype::kQ8}) {
    Plan plan;
    plan.wire_dtype = dtype;
    EXPECT_EQ(Name(RowFormatOf(plan)), Name(dtype));
  }
  EXPECT_EQ(RowValueBytes(Plan::WireDtype::kQ8), 1 + 2.0 / kQ8Columns);
}

/// As ReplicaTest, with rows rounded on their way.
Plan RoundedPlan() {
  Plan plan = RemotePlan(true);
  plan.wire_dtype = Plan::WireDtype::kQ8;
  return plan;
}
class RoundedExchangeTest : public ExchangeTest {
 protected:
  RoundedExchangeTest() : ExchangeTest(RoundedPlan()) {}
};

TEST_F(RoundedExchangeTest, OwnersAreAskedWhateverTheLoad) {
  ids_ = {0, 1, 0, 1, 0, 1};  // With exact rows half of them went to the other holder.
  ASSERT_TRUE(dispatch().ok());
  EXPECT_EQ(transport_.sent.size(), 1u);
  ASSERT_EQ(transport_.sent.at(NodeId{1}).size(), 1u);
  const FrameHeader& header = transport_.sent.at(NodeId{1}).front().header;
  EXPECT_EQ(header.dtype, DType::kI8);
  EXPECT_EQ(header.flags, static_cast<uint8_t>(RowFormat::kQ8));
}

TEST_F(RoundedExchangeTest, NobodyStandsInForAnOwnerThatIsLost) {
  exchange_.on_lost(NodeId{2}, Unavailable("connection reset"));
  EXPECT_THAT(Message(dispatch().status()), StartsWith("node 'right' lost: connection reset"));
  EXPECT_EQ(exchange_.loss().owner, NodeId{2});
}

TEST_F(RoundedExchangeTest, ARowThatIsNotFiniteIsItsOwnFaultAndIsNotSent) {
  x_[kWidth] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(dispatch().status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(ExchangeTest, AnOwnerThatCannotBeReachedFailsTheDispatch) {
  transport_.refuse = NodeId{2};
  EXPECT_THAT(Message(dispatch().status()), StartsWith("node 'right' lost: the peer is down"));
}

}  // namespace
}  // namespace shoal
