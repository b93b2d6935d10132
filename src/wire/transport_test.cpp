// The conformance suite: what every Transport promises, run on each of them.
#include "wire/transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "wire/grpc/endpoint.h"
#include "wire/inproc.h"
#include "wire/payload.h"
#include "wire/testing/tcp_proxy.h"

namespace shoal {
namespace {

using testing::HasSubstr;

constexpr int64_t kTimeoutMs = 20'000;  // No test waits that long unless it fails.

Deadline Soon() { return Deadline::after_ms(kTimeoutMs); }

/// Nodes that are connected, and ways to hurt their links.
class Network {
 public:
  virtual ~Network() = default;
  Transport& node(int i) { return *nodes_.at(static_cast<size_t>(i)); }
  virtual void break_link(int a, int b) = 0;
  virtual void heal_link(int a, int b) = 0;
  virtual void hang_link(int from, int to) = 0;
  /// The next frame of Marked() bytes.
  virtual void corrupt_next(int from, int to) = 0;

 protected:
  std::vector<std::unique_ptr<Transport>> nodes_;
};

struct NetworkShape {
  int nodes = 2;
  FrameLimits limits;
  WindowLimits window;
};

class InprocFixture : public Network {
 public:
  explicit InprocFixture(const NetworkShape& shape) : network_(options(shape)) {
    for (int i = 0; i < shape.nodes; ++i) nodes_.push_back(network_.open(NodeId{i}));
  }
  void break_link(int a, int b) override { network_.break_link(NodeId{a}, NodeId{b}); }
  void heal_link(int a, int b) override {
    network_.heal_link(NodeId{a}, NodeId{b});
    network_.heal_link(NodeId{b}, NodeId{a});
  }
  void hang_link(int from, int to) override { network_.hang_link(NodeId{from}, NodeId{to}); }
  void corrupt_next(int from, int to) override { network_.corrupt_next(NodeId{from}, NodeId{to}); }

 private:
  static InprocOptions options(const NetworkShape& shape) {
    InprocOptions options{.limits = shape.limits, .window = shape.window};
    for (int i = 0; i < shape.nodes; ++i) options.names.push_back(fmt::format("mini{}", i));
    return options;
  }
  InprocNetwork network_;
};

class GrpcFixture : public Network {
 public:
  explicit GrpcFixture(const NetworkShape& shape) {
    for (int i = 0; i < shape.nodes; ++i) {
      GrpcOptions options{.name = fmt::format("mini{}", i), .limits = shape.limits, .window = shape.window};
      auto endpoint = GrpcEndpoint::start(std::move(options));
      EXPECT_TRUE(endpoint.ok()) << Message(endpoint.status());
      endpoints_.push_back(*std::move(endpoint));
    }
    for (int from = 0; from < shape.nodes; ++from) {
      SessionOptions session{.session = 77, .self = NodeId{from}, .identity = {"test/1", "hash", "f16"}};
      for (int to = 0; to < shape.nodes; ++to) {
        auto& proxy = proxies_[{from, to}];
        proxy = std::make_unique<TcpProxy>(endpoints_[static_cast<size_t>(to)]->port());
        session.peers.push_back({NodeId{to}, fmt::format("mini{}", to), proxy->address()});
      }
      auto transport = endpoints_[static_cast<size_t>(from)]->open_session(std::move(session));
      EXPECT_TRUE(transport.ok()) << Message(transport.status());
      nodes_.push_back(*std::move(transport));
    }
  }
  void break_link(int a, int b) override {
    proxy(a, b).cut();
    proxy(b, a).cut();
  }
  void heal_link(int a, int b) override {
    proxy(a, b).heal();
    proxy(b, a).heal();
  }
  void hang_link(int from, int to) override { proxy(from, to).go_silent(); }
  void corrupt_next(int from, int to) override { proxy(from, to).corrupt_next(); }

 private:
  TcpProxy& proxy(int from, int to) { return *proxies_.at({from, to}); }
  std::vector<std::unique_ptr<GrpcEndpoint>> endpoints_;
  std::map<std::pair<int, int>, std::unique_ptr<TcpProxy>> proxies_;
};

enum class TransportKind { kInproc, kGrpc };

class TransportTest : public testing::TestWithParam<TransportKind> {
 protected:
  void start(const NetworkShape& shape) {
    if (GetParam() == TransportKind::kInproc) {
      network_ = std::make_unique<InprocFixture>(shape);
    } else {
      network_ = std::make_unique<GrpcFixture>(shape);
    }
    for (int i = 0; i < shape.nodes; ++i) {
      const absl::Status connected = node(i).connect(Soon());
      ASSERT_TRUE(connected.ok()) << Message(connected);
    }
  }
  Transport& node(int i) { return network_->node(i); }

  std::unique_ptr<Network> network_;
};

Frame MakeFrame(uint64_t step, size_t payload_bytes = 16, FrameKind kind = FrameKind::kStep) {
  Frame frame;
  frame.header.kind = kind;
  frame.header.epoch = Epoch{4};
  frame.header.step = StepId{step};
  PayloadWriter writer(payload_bytes);
  RandomStream random(step);
  for (auto& value : writer.reserve_array<uint8_t>(payload_bytes))
    value = static_cast<uint8_t>(random.bits());
  frame.payload = writer.finish();
  return frame;
}

/// A frame that TcpProxy can recognise in the stream.
Frame Marked() {
  Frame frame;
  frame.payload = Buffer::copy_of(std::vector<std::byte>(4096, std::byte{TcpProxy::kMarker}));
  return frame;
}

bool SamePayload(const Frame& a, const Frame& b) {
  return std::ranges::equal(a.payload.bytes(), b.payload.bytes());
}

Event Next(Transport& node) {
  auto event = node.receive(Soon());
  EXPECT_TRUE(event.ok()) << Message(event.status());
  return event.ok() ? *std::move(event) : Event{};
}

/// The next kPeerDown, past frames.
Event NextDown(Transport& node) {
  while (true) {
    Event event = Next(node);
    if (event.kind != Event::Kind::kFrame) return event;
  }
}

/// Sends until the link is open again.
absl::Status SendWhenUp(Transport& node, NodeId to, const Frame& frame) {
  const Deadline deadline = Soon();
  while (true) {
    absl::Status sent = node.send(to, frame, deadline);
    if (!absl::IsUnavailable(sent) || deadline.expired()) return sent;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

TEST_P(TransportTest, FramesArriveWholeAndInOrder) {
  start({});
  for (uint64_t step = 0; step < 200; ++step) {
    ASSERT_TRUE(node(0).send(NodeId{1}, MakeFrame(step, step * 7), Soon()).ok());
  }
  for (uint64_t step = 0; step < 200; ++step) {
    const Event event = Next(node(1));
    ASSERT_EQ(event.kind, Event::Kind::kFrame);
    EXPECT_EQ(event.from, NodeId{0});
    EXPECT_EQ(event.frame.header.sender, NodeId{0});
    EXPECT_EQ(event.frame.header.epoch, Epoch{4});
    ASSERT_EQ(event.frame.header.step, StepId{step});
    ASSERT_EQ(event.frame.header.length, step * 7);
    ASSERT_TRUE(SamePayload(event.frame, MakeFrame(step, step * 7)));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(event.frame.payload.data()) % kWireAlignment, 0u);
  }
}

TEST_P(TransportTest, TwoInterleavedStepsFromTwoNodesKeepTheirOrderPerSender) {
  start({.nodes = 3});
  for (uint64_t i = 0; i < 50; ++i) {
    for (int from = 0; from < 2; ++from) {
      for (const uint64_t step : {2 * i, 2 * i + 1}) {
        ASSERT_TRUE(node(from).send(NodeId{2}, MakeFrame(step, 100), Soon()).ok());
      }
    }
  }
  std::map<NodeId, uint64_t> next;
  for (int i = 0; i < 200; ++i) {
    const Event event = Next(node(2));
    ASSERT_EQ(event.frame.header.step, StepId{next[event.from]++}) << "from " << event.from.value;
  }
  EXPECT_EQ(next[NodeId{0}], 100u);
  EXPECT_EQ(next[NodeId{1}], 100u);
}

/// Sends `rounds` requests, one at a time, and serves the peer's while it waits for each reply.
void AskAndServe(Transport& self, NodeId peer, int rounds, std::atomic<int>& unfinished) {
  bool waiting = false;
  for (int asked = 0; asked < rounds || unfinished > 0;) {
    if (!waiting && asked < rounds) {
      ASSERT_TRUE(self.send(peer, MakeFrame(1, 512, FrameKind::kExpertRequest), Soon()).ok());
      waiting = true;
    }
    const auto event = self.receive(Deadline::after_ms(asked < rounds ? kTimeoutMs : 20));
    if (absl::IsDeadlineExceeded(event.status()) && asked == rounds) continue;
    ASSERT_TRUE(event.ok()) << Message(event.status());
    ASSERT_EQ(event->kind, Event::Kind::kFrame);
    if (event->frame.header.kind == FrameKind::kExpertRequest) {
      ASSERT_TRUE(self.send(peer, MakeFrame(2, 512, FrameKind::kExpertReply), Soon()).ok());
      continue;
    }
    waiting = false;
    if (++asked == rounds) --unfinished;
  }
}

TEST_P(TransportTest, NodesThatOwnEachOthersExpertsServeWhileTheyWait) {
  start({});
  std::atomic<int> unfinished{2};
  std::thread other([&] { AskAndServe(node(1), NodeId{0}, 300, unfinished); });
  AskAndServe(node(0), NodeId{1}, 300, unfinished);
  other.join();
  EXPECT_EQ(node(0).stats().peers[NodeId{1}].frames_received, 600u);
}

TEST_P(TransportTest, ALargeFrameArrivesBitForBit) {
  start({});
  const Frame frame = MakeFrame(9, size_t{32} << 20);
  ASSERT_TRUE(node(0).send(NodeId{1}, frame, Soon()).ok());
  const Event event = Next(node(1));
  ASSERT_EQ(event.kind, Event::Kind::kFrame);
  EXPECT_TRUE(SamePayload(event.frame, frame));
}

TEST_P(TransportTest, APeerThatTakesNothingInStopsItsSenderAndLosesNothing) {
  start({.window = {.bytes_max = 1 << 20, .frames_max = 8}});
  constexpr size_t kFrameBytes = 64 << 10;
  uint64_t sent = 0;
  absl::Status status;
  while (sent < 2000) {
    status = node(0).send(NodeId{1}, MakeFrame(sent, kFrameBytes), Deadline::after_ms(300));
    if (!status.ok()) break;
    ++sent;
  }
  ASSERT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << Message(status);
  EXPECT_THAT(Message(status), HasSubstr("node 1 'mini1'"));
  EXPECT_GE(sent, 8u);
  EXPECT_GE(node(0).stats().peers[NodeId{1}].bytes_waiting, kFrameBytes);
  std::thread sender([&] {
    for (uint64_t step = sent; step < sent + 500; ++step) {
      ASSERT_TRUE(node(0).send(NodeId{1}, MakeFrame(step, 100), Soon()).ok());
    }
  });
  for (uint64_t step = 0; step < sent + 500; ++step) {
    const Event event = Next(node(1));
    ASSERT_EQ(event.frame.header.step, StepId{step});
    ASSERT_TRUE(SamePayload(event.frame, MakeFrame(step, step < sent ? kFrameBytes : 100)));
  }
  sender.join();
  // Who waits for events looks whether writes have ended.
  const Deadline deadline = Soon();
  while (node(0).stats().peers[NodeId{1}].bytes_waiting > 0 && !deadline.expired())
    (void)node(0).receive(Deadline::after_ms(10));
  EXPECT_EQ(node(0).stats().peers[NodeId{1}].bytes_waiting, 0u);
}

TEST_P(TransportTest, ANodeSendsToItselfWithoutAWindow) {
  start({.window = {.bytes_max = 1000, .frames_max = 2}});
  for (uint64_t step = 0; step < 20; ++step) {
    ASSERT_TRUE(node(1).send(NodeId{1}, MakeFrame(step, 200), Deadline::after_ms(0)).ok());
  }
  for (uint64_t step = 0; step < 20; ++step) {
    const Event event = Next(node(1));
    EXPECT_EQ(event.from, NodeId{1});
    EXPECT_EQ(event.frame.header.sender, NodeId{1});
    ASSERT_EQ(event.frame.header.step, StepId{step});
    EXPECT_EQ(event.frame.header.length, 200u);
    EXPECT_TRUE(SamePayload(event.frame, MakeFrame(step, 200)));
  }
  EXPECT_EQ(node(1).stats().peers[NodeId{1}].frames_received, 20u);
}

TEST_P(TransportTest, APeerThatClosesIsToldOnceAndNamedAndWhatItSentBeforeIsNotLost) {
  start({.nodes = 3});
  ASSERT_TRUE(node(1).send(NodeId{0}, MakeFrame(5), Soon()).ok());
  const Event frame = Next(node(0));
  ASSERT_EQ(frame.kind, Event::Kind::kFrame);
  node(1).close();
  const Event down = Next(node(0));
  ASSERT_EQ(down.kind, Event::Kind::kPeerDown);
  EXPECT_EQ(down.from, NodeId{1});
  EXPECT_EQ(down.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(down.status), HasSubstr("node 1 'mini1'"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(node(0).receive(Deadline::after_ms(100)).status()));
  absl::Status sent;
  for (int i = 0; i < 100 && sent.ok(); ++i) {  // The last frames may still leave before the end is noticed.
    sent = node(0).send(NodeId{1}, MakeFrame(6), Soon());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_THAT(sent.code(),
              testing::AnyOf(absl::StatusCode::kUnavailable, absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Message(sent), HasSubstr("node 1 'mini1'"));
  ASSERT_TRUE(node(0).send(NodeId{2}, MakeFrame(7), Soon()).ok()) << "the others go on";
  EXPECT_EQ(Next(node(2)).kind, Event::Kind::kPeerDown);
  EXPECT_EQ(Next(node(2)).frame.header.step, StepId{7});
}

TEST_P(TransportTest, ReceiveGivesUpAtItsDeadline) {
  start({});
  const auto begin = Clock::now();
  const auto event = node(0).receive(Deadline::after_ms(60));
  EXPECT_TRUE(absl::IsDeadlineExceeded(event.status()));
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(60));
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(5000));
}

TEST_P(TransportTest, WakeEndsTheCurrentReceiveOrTheNextOne) {
  start({});
  node(0).wake();
  node(0).wake();
  EXPECT_EQ(Next(node(0)).kind, Event::Kind::kWake);
  EXPECT_TRUE(absl::IsDeadlineExceeded(node(0).receive(Deadline::after_ms(20)).status()))
      << "two wakes, one event";
  std::thread waker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    node(0).wake();
  });
  EXPECT_EQ(Next(node(0)).kind, Event::Kind::kWake);
  waker.join();
}

TEST_P(TransportTest, CloseEndsAWaitingReceive) {
  start({});
  std::thread closer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    node(0).close();
  });
  EXPECT_TRUE(absl::IsCancelled(node(0).receive(Soon()).status()));
  closer.join();
  EXPECT_TRUE(absl::IsCancelled(node(0).send(NodeId{1}, MakeFrame(1), Soon())));
  EXPECT_TRUE(absl::IsCancelled(node(0).send(NodeId{0}, MakeFrame(1), Soon())));
  node(0).close();  // Twice is fine.
}

TEST_P(TransportTest, CloseEndsAWaitingSend) {
  start({.window = {.bytes_max = 1 << 20, .frames_max = 4}});
  std::thread closer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    node(0).close();
  });
  absl::Status status;
  for (int i = 0; i < 5000 && status.ok(); ++i) {
    status = node(0).send(NodeId{1}, MakeFrame(1, 256 << 10), Soon());
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << Message(status);
  closer.join();
}

TEST_P(TransportTest, StatsCountFramesAndBytesPerPeer) {
  start({.nodes = 3});
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(node(0).send(NodeId{1}, MakeFrame(1, 1000), Soon()).ok());
  ASSERT_TRUE(node(0).send(NodeId{2}, MakeFrame(1, 10), Soon()).ok());
  for (int i = 0; i < 5; ++i) Next(node(1));
  auto sent = node(0).stats();
  EXPECT_EQ(sent.peers[NodeId{1}].frames_sent, 5u);
  EXPECT_EQ(sent.peers[NodeId{1}].bytes_sent, 5 * (kFrameHeaderBytes + 1000));
  EXPECT_EQ(sent.peers[NodeId{2}].bytes_sent, kFrameHeaderBytes + 10);
  EXPECT_EQ(sent.total().frames_sent, 6u);
  auto received = node(1).stats();
  EXPECT_EQ(received.peers[NodeId{0}].frames_received, 5u);
  EXPECT_EQ(received.peers[NodeId{0}].bytes_received, 5 * (kFrameHeaderBytes + 1000));
  EXPECT_EQ(received.total().frames_sent, 0u);
}

TEST_P(TransportTest, AFrameAboveTheLimitIsRefusedBeforeItLeaves) {
  start({.limits = {.payload_bytes_max = 1000}});
  const absl::Status status = node(0).send(NodeId{1}, MakeFrame(1, 1001), Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("1001 bytes is above the limit of 1000"));
  EXPECT_EQ(node(0).send(NodeId{0}, MakeFrame(1, 1001), Soon()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(node(0).send(NodeId{1}, MakeFrame(1, 1000), Soon()).ok());
  EXPECT_EQ(Next(node(1)).frame.header.length, 1000u);
}

TEST_P(TransportTest, ANodeThatIsNotThereIsNamed) {
  start({});
  const absl::Status status = node(0).send(NodeId{7}, MakeFrame(1), Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("node 7"));
}

TEST_P(TransportTest, AFlippedBitEndsTheStreamAsDataLossAndTheNextSendOpensAnother) {
  start({});
  network_->corrupt_next(0, 1);
  ASSERT_TRUE(node(0).send(NodeId{1}, Marked(), Soon()).ok());
  const Event at_receiver = Next(node(1));
  ASSERT_EQ(at_receiver.kind, Event::Kind::kPeerDown);
  EXPECT_EQ(at_receiver.status.code(), absl::StatusCode::kDataLoss) << Message(at_receiver.status);
  EXPECT_THAT(Message(at_receiver.status), HasSubstr("node 0 'mini0'"));
  const Event at_sender = Next(node(0));
  ASSERT_EQ(at_sender.kind, Event::Kind::kPeerDown);
  EXPECT_EQ(at_sender.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(at_sender.status), HasSubstr("node 1 'mini1'"));
  EXPECT_THAT(Message(at_sender.status), HasSubstr("corrupted"));
  ASSERT_TRUE(SendWhenUp(node(0), NodeId{1}, MakeFrame(8)).ok());
  EXPECT_EQ(Next(node(1)).frame.header.step, StepId{8});
}

TEST_P(TransportTest, ABrokenLinkIsToldToBothAndWorksAgainWhenItIsBack) {
  start({});
  network_->break_link(0, 1);
  for (int i = 0; i < 2; ++i) {
    const Event down = NextDown(node(i));
    ASSERT_EQ(down.kind, Event::Kind::kPeerDown);
    EXPECT_EQ(down.from, NodeId{1 - i});
    EXPECT_EQ(down.status.code(), absl::StatusCode::kUnavailable);
  }
  absl::Status sent;
  for (int i = 0; i < 100 && sent.ok(); ++i) {
    sent = node(0).send(NodeId{1}, MakeFrame(1), Soon());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(sent.code(), absl::StatusCode::kUnavailable) << Message(sent);
  network_->heal_link(0, 1);
  ASSERT_TRUE(SendWhenUp(node(0), NodeId{1}, MakeFrame(2)).ok());
  EXPECT_EQ(Next(node(1)).frame.header.step, StepId{2});
}

TEST_P(TransportTest, AHungLinkEndsASendAtItsDeadlineAndNamesThePeer) {
  start({.window = {.bytes_max = 1 << 20, .frames_max = 16}});
  network_->hang_link(0, 1);
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = node(0).send(NodeId{1}, MakeFrame(1, 256 << 10), Deadline::after_ms(200));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << Message(status);
  EXPECT_THAT(Message(status), HasSubstr("node 1 'mini1'"));
}

TEST_P(TransportTest, FourNodesAllToAllLoseMixAndReorderNothing) {
  constexpr int kNodes = 4;
  constexpr uint64_t kFrames = 200;
  start({.nodes = kNodes, .window = {.bytes_max = 1 << 20, .frames_max = 32}});
  const auto size_of = [](int from, int to, uint64_t step) {
    return static_cast<size_t>(RandomBits(1, static_cast<uint64_t>(from * kNodes + to), step) % 9000);
  };
  std::vector<std::thread> threads;
  for (int self = 0; self < kNodes; ++self) {
    threads.emplace_back([&, self] {
      for (uint64_t step = 0; step < kFrames; ++step) {
        for (int to = 0; to < kNodes; ++to) {
          ASSERT_TRUE(node(self).send(NodeId{to}, MakeFrame(step, size_of(self, to, step)), Soon()).ok());
        }
      }
    });
    threads.emplace_back([&, self] {
      std::map<NodeId, uint64_t> next;
      for (uint64_t i = 0; i < kNodes * kFrames; ++i) {
        const Event event = Next(node(self));
        ASSERT_EQ(event.kind, Event::Kind::kFrame) << Message(event.status);
        const uint64_t step = next[event.from]++;
        ASSERT_EQ(event.frame.header.step, StepId{step});
        ASSERT_TRUE(SamePayload(event.frame, MakeFrame(step, size_of(event.from.value, self, step))));
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(All, TransportTest, testing::Values(TransportKind::kInproc, TransportKind::kGrpc),
                         [](const auto& test) {
                           return test.param == TransportKind::kInproc ? "Inproc" : "Grpc";
                         });

}  // namespace
}  // namespace shoal
