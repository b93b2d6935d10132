#include "exec/segment_exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "compute/cpu_backend.h"
#include "convert/testing/checkpoints.h"
#include "exec/awaited_reply.h"
#include "exec/testing/recording_transport.h"

namespace shoal {
namespace {

using testing::HasSubstr;

constexpr int64_t kRows = 2;
constexpr Duration kTimeout = std::chrono::milliseconds(50);

/// Node 0 asks; nodes 1 and 2, which the test plays with the numbers of one session, have a segment of each layer.
class SegmentExchangeTest : public testing::Test {
 protected:
  SegmentExchangeTest() : weights_(*ResolvedWeights::Open(TinyCheckpoint("qwen3", AffineFormat{4, 64}))) {
    const auto layers = weights_->spec().layers.size();
    plan_.nodes = {{"asker", ""}, {"left", ""}, {"right", ""}};
    plan_.stages = {{NodeId{0}, {0, static_cast<int64_t>(layers)}}};
    plan_.experts.resize(layers);
    plan_.segments.assign(layers, {NodeId{1}, NodeId{2}});
    asker_model_ = load({});
    holder_model_ = load({0, 1});
    asker_ = *asker_model_->open({.rows_max = 8});
    holder_ = *holder_model_->open({.rows_max = 8});
    open_session();
    x_.assign(static_cast<size_t>(kRows * weights_->spec().width), 0.25f);
    y_.resize(x_.size());
  }

  /// Another session: nobody is lost.
  void open_session() {
    events_.clear();
    exchange_ = std::make_unique<SegmentExchange>(
        SegmentExchange::Options{&plan_, NodeId{0}, asker_.get(), &transport_, kTimeout},
        [this](Deadline deadline) { return pump(deadline); });
    exchange_->begin_step(StepId{7}, arena_);
  }

  std::unique_ptr<BackendModel> load(const std::vector<int32_t>& held) {
    const size_t layers = weights_->spec().layers.size();
    BackendLoad load;
    load.weights = weights_;
    load.experts.resize(layers);
    load.segments = {std::vector<int32_t>(layers, 2), std::vector<std::vector<int32_t>>(layers, held)};
    load.stage.segments = load.segments.counts;
    auto model = backend_.load(load);
    SHOAL_CHECK(model.ok());
    return *std::move(model);
  }

  /// What a holder answers to its newest request.
  Frame answer_of(NodeId node) {
    const Frame& request = transport_.sent.at(node).back();
    SegmentMessage message;
    EXPECT_EQ(DecodeSegmentRequest(request, message), absl::OkStatus());
    EXPECT_EQ(message.segments, std::vector<int32_t>{node.value - 1});
    Arena arena;
    const absl::StatusOr<SegmentRows> rows =
        RunSegments(*holder_, request.header.layer, message.half, message.segments, message.rows, arena);
    EXPECT_EQ(rows.status(), absl::OkStatus());
    return EncodeSegmentReply(request.header, message.ticket, {.compute_ns = 5, .rows = *rows});
  }

  Frame error_of(NodeId node, const absl::Status& status) {
    const Frame& request = transport_.sent.at(node).back();
    SegmentMessage message;
    EXPECT_EQ(DecodeSegmentRequest(request, message), absl::OkStatus());
    return EncodeExpertError(request.header, {message.ticket, status});
  }

  absl::Status pump(Deadline deadline) {
    if (events_.empty()) {
      while (!deadline.expired()) {
      }
      return DeadlineExceeded("nothing came");
    }
    const std::function<void()> event = std::move(events_.front());
    events_.pop_front();
    event();
    return absl::OkStatus();
  }
  void answer_both() {
    for (const NodeId node : {NodeId{2}, NodeId{1}}) {
      events_.emplace_back([this, node] { exchange_->on_reply(node, answer_of(node)); });
    }
  }

  absl::Status run() {
    return exchange_->run(LayerId{1}, {.x = MatView<const float>(x_.data(), kRows, weights_->spec().width)},
                          MatView<float>(y_.data(), kRows, weights_->spec().width));
  }

  std::shared_ptr<const ResolvedWeights> weights_;
  Plan plan_;
  CpuBackend backend_{{.isa = SupportedIsas().back(), .threads = 1}};
  std::unique_ptr<BackendModel> asker_model_, holder_model_;
  std::unique_ptr<BackendSession> asker_, holder_;
  RecordingTransport transport_;
  Arena arena_;
  std::deque<std::function<void()>> events_;
  std::unique_ptr<SegmentExchange> exchange_;
  std::vector<float> x_, y_;
};

// Node 1's answer comes while node 2's window is full, and is what makes room there.
TEST_F(SegmentExchangeTest, AnswersAreTakenWhileAFullWindowKeepsARequestWaiting) {
  transport_.full = NodeId{2};
  events_.emplace_back([this] { exchange_->on_reply(NodeId{1}, answer_of(NodeId{1})); });
  events_.emplace_back([this] { transport_.full = NodeId{-1}; });
  events_.emplace_back([this] { exchange_->on_reply(NodeId{2}, answer_of(NodeId{2})); });
  answer_both();
  const Clock::time_point begin = Clock::now();
  EXPECT_EQ(run(), absl::OkStatus());
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(kRequestSendMs));
  EXPECT_EQ(transport_.sent[NodeId{2}].size(), 2u);
}

TEST_F(SegmentExchangeTest, AHolderThatIsLostWhileItsWindowIsFullIsNotWaitedFor) {
  transport_.full = NodeId{2};
  events_.emplace_back([this] { exchange_->on_lost(NodeId{2}, Unavailable("its link broke")); });
  const Clock::time_point begin = Clock::now();
  EXPECT_THAT(Message(run()), HasSubstr("node 'right' lost: its link broke"));
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(kRequestSendMs));
  EXPECT_EQ(exchange_->loss().owner, NodeId{2});
}

TEST_F(SegmentExchangeTest, AsksEachHolderTwiceAndPutsTheAnswersTogether) {
  answer_both();
  answer_both();
  ASSERT_EQ(run(), absl::OkStatus());
  EXPECT_EQ(transport_.sent[NodeId{1}].size(), 2u);
  EXPECT_EQ(transport_.sent[NodeId{2}].size(), 2u);
  // Rows of one value each: both rows are alike, and every column was written.
  const auto width = static_cast<size_t>(weights_->spec().width);
  EXPECT_TRUE(std::equal(y_.begin(), y_.begin() + static_cast<std::ptrdiff_t>(width),
                         y_.begin() + static_cast<std::ptrdiff_t>(width)));
  EXPECT_EQ(std::ranges::count(y_, 0.0f), 0);
  EXPECT_TRUE(exchange_->loss().status.ok());
}

TEST_F(SegmentExchangeTest, AHolderThatIsNotThereEndsTheStepByName) {
  transport_.refuse = NodeId{2};
  const absl::Status status = run();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(status), HasSubstr("node 'right' lost: the peer is down"));
  EXPECT_EQ(exchange_->loss().owner, NodeId{2});
  // It is not asked again in this session.
  transport_.refuse = NodeId{-1};
  exchange_->begin_step(StepId{8}, arena_);
  EXPECT_EQ(run().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(transport_.sent[NodeId{2}].empty());
}

TEST_F(SegmentExchangeTest, ASilentHolderIsGivenUp) {
  events_.emplace_back([this] { exchange_->on_reply(NodeId{1}, answer_of(NodeId{1})); });
  EXPECT_THAT(Message(run()), HasSubstr("node 'right' lost: no answer and no heartbeat"));
}

TEST_F(SegmentExchangeTest, ABrokenLinkAnErrorAndAWrongAnswerAreLosses) {
  const std::vector<std::function<void()>> faults = {
      [this] { exchange_->on_lost(NodeId{2}, Unavailable("the link broke")); },
      [this] { exchange_->on_reply(NodeId{2}, error_of(NodeId{2}, FailedPrecondition("another plan"))); },
      [this] {
        Frame frame = answer_of(NodeId{2});
        frame.header.rows = 1;
        exchange_->on_reply(NodeId{2}, std::move(frame));
      }};
  for (const auto& fault : faults) {
    open_session();
    events_.emplace_back([this] { exchange_->on_reply(NodeId{1}, answer_of(NodeId{1})); });
    events_.emplace_back(fault);
    EXPECT_EQ(run().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(exchange_->loss().owner, NodeId{2});
  }
}

TEST_F(SegmentExchangeTest, RowsThatAHolderCannotComputeAreNoLoss) {
  events_.emplace_back(
      [this] { exchange_->on_reply(NodeId{1}, error_of(NodeId{1}, OutOfRange("not finite"))); });
  const absl::Status status = run();
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(exchange_->loss().status.ok());
  answer_both();  // The late answer to the first request is dropped.
  answer_both();
  Frame late = answer_of(NodeId{2});
  events_.emplace_front([this, late] { exchange_->on_reply(NodeId{2}, late); });
  EXPECT_EQ(run(), absl::OkStatus());
}

TEST_F(SegmentExchangeTest, RequestsThatNobodyWritesAreRefused) {
  const SegmentRows rows{.x = MatView<const float>(x_.data(), 1, 64)};
  const auto decode = [&](std::vector<int32_t> segments, auto edit) {
    Frame frame =
        EncodeSegmentRequest({Epoch{1}, StepId{2}, LayerId{3}, 4, SegmentHalf::kDown}, rows, segments);
    edit(frame);
    SegmentMessage message;
    return DecodeSegmentRequest(frame, message);
  };
  const auto as_it_is = [](Frame&) {};
  EXPECT_EQ(decode({0, 5}, as_it_is), absl::OkStatus());
  EXPECT_THAT(Message(decode({5, 0}, as_it_is)), HasSubstr("ascending"));
  EXPECT_THAT(Message(decode({0, 64}, as_it_is)), HasSubstr("below 64"));
  EXPECT_THAT(Message(decode({}, as_it_is)), HasSubstr("expected 1 to 64"));
  EXPECT_THAT(Message(decode({0}, [](Frame& frame) { frame.header.rows = 2; })),
              HasSubstr("segment_request.rows"));
  EXPECT_THAT(Message(decode({0}, [](Frame& frame) { frame.header.dtype = DType::kF16; })),
              HasSubstr("dtype f16"));
}

}  // namespace
}  // namespace shoal
