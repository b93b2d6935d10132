// What only the gRPC transport does: handshakes, sessions, keepalive, and strangers on the port.
#include "wire/grpc/endpoint.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <future>
#include <thread>

#include "base/check.h"
#include "base/process.h"
#include "base/status.h"
#include "wire/testing/tcp_proxy.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

Deadline Soon() { return Deadline::after_ms(20'000); }
KeyAuth Key(const std::string& text) { return *KeyAuth::from_key(text); }

GrpcOptions Named(int node) {
  return {.name = fmt::format("mini{}", node), .handshake_timeout = std::chrono::milliseconds(1500)};
}

std::unique_ptr<GrpcEndpoint> Start(GrpcOptions options) {
  auto endpoint = GrpcEndpoint::start(std::move(options));
  EXPECT_TRUE(endpoint.ok()) << Message(endpoint.status());
  return *std::move(endpoint);
}

std::string AddressOf(const GrpcEndpoint& endpoint) { return fmt::format("127.0.0.1:{}", endpoint.port()); }

/// Node `self` of a session of two, whose other node is at `peer_address`.
SessionOptions SessionOf(uint64_t session, int self, const std::string& peer_address) {
  const int peer = 1 - self;
  return {.session = session,
          .self = NodeId{self},
          .peers = {{NodeId{peer}, fmt::format("mini{}", peer), peer_address}},
          .identity = {.numerics_class = "shoal-cpu/1", .model_hash = "0011", .kv_dtype = "f16"}};
}

std::unique_ptr<Transport> Open(GrpcEndpoint& endpoint, SessionOptions options) {
  auto transport = endpoint.open_session(std::move(options));
  EXPECT_TRUE(transport.ok()) << Message(transport.status());
  return *std::move(transport);
}

Frame StepFrame(uint64_t step) {
  Frame frame;
  frame.header.step = StepId{step};
  return frame;
}

/// Two endpoints, to be changed before they start.
struct TwoNodes {
  GrpcOptions options[2] = {Named(0), Named(1)};
  std::unique_ptr<GrpcEndpoint> endpoints[2];

  void ping_every(milliseconds interval, milliseconds timeout) {  // Before start().
    for (GrpcOptions& of : options) {
      of.keepalive_interval = interval;
      of.keepalive_timeout = timeout;
    }
  }
  void start() {
    for (int i = 0; i < 2; ++i) endpoints[i] = Start(options[i]);
  }
  SessionOptions session(uint64_t id, int self) {
    return SessionOf(id, self, AddressOf(*endpoints[1 - self]));
  }
  std::unique_ptr<Transport> open(uint64_t id, int self) { return Open(*endpoints[self], session(id, self)); }
};

TEST(Grpc, EqualKeysConnect) {
  TwoNodes nodes;
  for (auto& options : nodes.options) options.key = Key("a key of the whole cluster");
  nodes.start();
  const auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  ASSERT_TRUE(a->send(NodeId{1}, StepFrame(5), Soon()).ok());
  EXPECT_EQ(b->receive(Soon())->frame.header.step, StepId{5});
}

TEST(Grpc, AWrongOrMissingKeyIsATypedErrorOfTheSender) {
  TwoNodes nodes;
  nodes.options[0].key = Key("the key of node zero");
  nodes.options[1].key = Key("the key of node one!");
  nodes.start();
  auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  absl::Status status = a->send(NodeId{1}, StepFrame(5), Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << Message(status);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("node 1 'mini1'"), HasSubstr("--key-file")));

  const auto open_endpoint = Start(Named(0));
  const auto c = Open(*open_endpoint, nodes.session(2, 0));
  const auto d = nodes.open(2, 1);
  status = c->connect(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << Message(status);
  EXPECT_THAT(Message(status), HasSubstr("node 0 'mini0' has none"));
  EXPECT_TRUE(absl::IsDeadlineExceeded(d->receive(Deadline::after_ms(50)).status()))
      << "a refused dial is no break";
}

TEST(Grpc, AnotherModelIsATypedErrorThatNamesBothHashes) {
  TwoNodes nodes;
  nodes.start();
  auto other = nodes.session(1, 1);
  other.identity.model_hash = "ffee";
  const auto a = nodes.open(1, 0);
  const auto b = Open(*nodes.endpoints[1], other);
  const absl::Status status = a->connect(Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << Message(status);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("0011"), HasSubstr("ffee"), HasSubstr("mini1")));
}

TEST(Grpc, AStreamThatArrivesBeforeItsSessionWaitsForIt) {
  TwoNodes nodes;
  nodes.start();
  const auto a = nodes.open(1, 0);
  absl::Status sent;
  std::thread early([&] { sent = a->send(NodeId{1}, StepFrame(3), Soon()); });
  std::this_thread::sleep_for(milliseconds(200));
  const auto b = nodes.open(1, 1);
  early.join();
  ASSERT_TRUE(sent.ok()) << Message(sent);
  EXPECT_EQ(b->receive(Soon())->frame.header.step, StepId{3});
}

TEST(Grpc, AStreamWhoseSessionDoesNotOpenInTimeIsRefusedAndMayTryAgain) {
  TwoNodes nodes;
  nodes.options[1].handshake_timeout = milliseconds(100);
  nodes.start();
  const auto a = nodes.open(2, 0);
  const auto b = nodes.open(1, 1);
  const absl::Status status = a->send(NodeId{1}, StepFrame(3), Soon());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << Message(status);
  EXPECT_THAT(Message(status), HasSubstr("was not opened here in time"));
  std::unique_ptr<Transport> c;
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(400));
    c = nodes.open(2, 1);
  });
  const absl::Status connected = a->connect(Soon());
  later.join();
  EXPECT_TRUE(connected.ok()) << Message(connected);
}

TEST(Grpc, SessionsRunBesideEachOtherAndOneThatEndsIsNotOpenedAgain) {
  TwoNodes nodes;
  nodes.start();
  const auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  ASSERT_TRUE(a->connect(Soon()).ok());
  ASSERT_TRUE(b->connect(Soon()).ok());
  const auto a2 = nodes.open(2, 0);
  const auto b2 = nodes.open(2, 1);
  ASSERT_TRUE(a2->send(NodeId{1}, StepFrame(9), Soon()).ok());
  ASSERT_TRUE(a->send(NodeId{1}, StepFrame(3), Soon()).ok());
  EXPECT_EQ(b2->receive(Soon())->frame.header.step, StepId{9});
  EXPECT_EQ(b->receive(Soon())->frame.header.step, StepId{3});

  b->close();
  EXPECT_TRUE(absl::IsCancelled(b->send(NodeId{0}, StepFrame(1), Soon())));
  const auto down = a->receive(Soon());
  ASSERT_TRUE(down.ok());
  EXPECT_EQ(down->kind, Event::Kind::kPeerDown);
  absl::Status late;
  for (int i = 0; i < 200 && (late.ok() || absl::IsUnavailable(late)); ++i) {
    late = a->send(NodeId{1}, StepFrame(1), Soon());
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(late.code(), absl::StatusCode::kFailedPrecondition) << Message(late);
  EXPECT_THAT(Message(late), HasSubstr("has ended here"));
  EXPECT_EQ(nodes.endpoints[1]->open_session(nodes.session(1, 1)).status().code(),
            absl::StatusCode::kFailedPrecondition);

  ASSERT_TRUE(a2->send(NodeId{1}, StepFrame(10), Soon()).ok());
  EXPECT_EQ(b2->receive(Soon())->frame.header.step, StepId{10});
}

TEST(Grpc, SeveralNodesOfASessionShareAnEndpoint) {
  TwoNodes nodes;
  nodes.start();
  const auto open = [&](int endpoint, int self) {
    SessionOptions session = nodes.session(1, endpoint);
    session.self = NodeId{self};
    session.peers = {{NodeId{0}, "mini0", AddressOf(*nodes.endpoints[0])},
                     {NodeId{1}, "mini1", AddressOf(*nodes.endpoints[1])},
                     {NodeId{2}, "mini2", AddressOf(*nodes.endpoints[1])}};
    return Open(*nodes.endpoints[endpoint], session);
  };
  const auto first = open(0, 0);
  const auto second = open(1, 1);
  ASSERT_TRUE(first->send(NodeId{1}, StepFrame(1), Soon()).ok());
  const auto third = open(1, 2);
  ASSERT_TRUE(first->send(NodeId{2}, StepFrame(2), Soon()).ok());
  ASSERT_TRUE(second->send(NodeId{2}, StepFrame(3), Soon()).ok());
  EXPECT_EQ(second->receive(Soon())->frame.header.step, StepId{1});
  std::vector<std::pair<int, StepId>> got;
  for (int i = 0; i < 2; ++i) {
    const auto event = third->receive(Soon());
    ASSERT_TRUE(event.ok());
    got.emplace_back(event->from.value, event->frame.header.step);
  }
  EXPECT_THAT(got, testing::UnorderedElementsAre(std::pair(0, StepId{2}), std::pair(1, StepId{3})));
}

TEST(Grpc, ConnectWaitsForAPeerThatStartsLater) {
  const auto near = Start(Named(0));
  auto reserved = Start(Named(1));
  const int port = reserved->port();
  reserved = nullptr;
  const auto a = Open(*near, SessionOf(1, 0, fmt::format("127.0.0.1:{}", port)));
  const absl::Status refused = a->send(NodeId{1}, StepFrame(1), Soon());
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << Message(refused);
  EXPECT_THAT(Message(refused), HasSubstr("node 1 'mini1'"));
  std::unique_ptr<GrpcEndpoint> far;
  std::unique_ptr<Transport> b;
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(300));
    auto options = Named(1);
    options.listen = fmt::format("127.0.0.1:{}", port);
    far = Start(std::move(options));
    b = Open(*far, SessionOf(1, 1, AddressOf(*near)));
  });
  const absl::Status connected = a->connect(Soon());
  later.join();
  EXPECT_TRUE(connected.ok()) << Message(connected);
}

TEST(Grpc, ConnectGivesUpAtItsDeadlineAndNamesThePeer) {
  const auto near = Start(Named(0));
  auto gone = Start(Named(1));
  const std::string address = AddressOf(*gone);
  gone = nullptr;
  const auto a = Open(*near, SessionOf(1, 0, address));
  const absl::Status status = a->connect(Deadline::after_ms(200));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << Message(status);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("node 1 'mini1'"), HasSubstr(address)));
}

TEST(Grpc, ABlackHoleIsFoundByKeepaliveOnBothSides) {
  TwoNodes nodes;
  nodes.ping_every(milliseconds(300), milliseconds(500));
  nodes.start();
  TcpProxy there(nodes.endpoints[1]->port());
  TcpProxy back(nodes.endpoints[0]->port());
  const auto a = Open(*nodes.endpoints[0], SessionOf(1, 0, there.address()));
  const auto b = Open(*nodes.endpoints[1], SessionOf(1, 1, back.address()));
  ASSERT_TRUE(a->connect(Soon()).ok());
  ASSERT_TRUE(b->connect(Soon()).ok());
  const auto begin = Clock::now();
  there.go_silent();
  back.go_silent();
  for (Transport* node : {a.get(), b.get()}) {
    const auto down = node->receive(Soon());
    ASSERT_TRUE(down.ok());
    EXPECT_EQ(down->kind, Event::Kind::kPeerDown);
    EXPECT_EQ(down->status.code(), absl::StatusCode::kUnavailable) << Message(down->status);
  }
  EXPECT_LT(Clock::now() - begin, milliseconds(5000));
}

TEST(Grpc, NodesWhoseExecutorsComputeForLongAnswerPingsAndTakeFramesIn) {
  TwoNodes nodes;
  nodes.ping_every(milliseconds(200), milliseconds(300));
  nodes.start();
  const auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  ASSERT_TRUE(a->connect(Soon()).ok());
  ASSERT_TRUE(b->connect(Soon()).ok());
  for (Transport* node : {a.get(), b.get()}) {  // Executors that were there, and went.
    EXPECT_TRUE(absl::IsDeadlineExceeded(node->receive(Deadline::after_ms(20)).status()));
  }
  ASSERT_TRUE(a->send(NodeId{1}, StepFrame(6), Soon()).ok());
  std::this_thread::sleep_for(milliseconds(1500));
  EXPECT_EQ(b->stats().total().frames_received, 1) << "nobody took it in";
  const auto event = b->receive(Soon());
  ASSERT_EQ(event->kind, Event::Kind::kFrame) << Message(event->status);
  EXPECT_EQ(event->frame.header.step, StepId{6});
  EXPECT_TRUE(absl::IsDeadlineExceeded(a->receive(Deadline::after_ms(0)).status()));
}

TEST(Grpc, ByDefaultABlackHoleIsFoundWithinSixSeconds) {
  const GrpcOptions options;
  EXPECT_LE(options.keepalive_interval + options.keepalive_timeout, std::chrono::seconds(6));
}

TEST(Grpc, AFrameAboveTheReceiversLimitEndsTheStreamWithTheNumbers) {
  TwoNodes nodes;
  nodes.options[1].limits.payload_bytes_max = 1000;
  nodes.start();
  const auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  Frame frame;
  frame.payload = Buffer::copy_of(std::vector<std::byte>(5000));
  ASSERT_TRUE(a->send(NodeId{1}, frame, Soon()).ok());
  const auto down = b->receive(Soon());
  ASSERT_EQ(down->kind, Event::Kind::kPeerDown);
  EXPECT_EQ(down->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(down->status), HasSubstr("5000 bytes is above the limit of 1000"));
  EXPECT_THAT(Message(a->receive(Soon())->status), HasSubstr("above the limit of 1000"));
  // So long that gRPC itself refuses it.
  frame.payload = Buffer::copy_of(std::vector<std::byte>(4 << 20));
  while (absl::IsUnavailable(a->send(NodeId{1}, frame, Soon())))
    std::this_thread::sleep_for(milliseconds(10));
  EXPECT_EQ(b->receive(Soon())->kind, Event::Kind::kPeerDown);
  EXPECT_EQ(a->receive(Soon())->kind, Event::Kind::kPeerDown);
}

TEST(Grpc, APortInUseIsAnError) {
  const auto first = Start(Named(0));
  GrpcOptions options = Named(1);
  options.listen = AddressOf(*first);
  const auto second = GrpcEndpoint::start(std::move(options));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr(AddressOf(*first)));
}

TEST(Grpc, BadOptionsAreRefused) {
  EXPECT_EQ(GrpcEndpoint::start({.listen = "nonsense"}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GrpcEndpoint::start({.limits = {.payload_bytes_max = uint64_t{2} << 30}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto endpoint = Start(Named(0));
  EXPECT_EQ(endpoint->open_session(SessionOf(1, 0, "no port")).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto twice = SessionOf(1, 0, "127.0.0.1:1");
  twice.peers.push_back(twice.peers[0]);
  EXPECT_EQ(endpoint->open_session(twice).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Grpc, StrangersOnThePortDoNotDisturbTheSession) {
  TwoNodes nodes;
  nodes.start();
  const auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  // Bytes that are no HTTP/2.
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(nodes.endpoints[1]->port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string junk(4096, 'x');
  EXPECT_GT(::send(socket, junk.data(), junk.size(), MSG_NOSIGNAL), 0);
  // A gRPC client whose first message is no hello, and one that calls what is not there.
  grpc::GenericStub stub(
      grpc::CreateChannel(AddressOf(*nodes.endpoints[1]), grpc::InsecureChannelCredentials()));
  for (const char* method : {"/shoal.v1.Wire/Frames", "/no.such/Method"}) {
    grpc::ClientContext context;
    context.set_deadline(gpr_time_from_seconds(10, GPR_TIMESPAN));
    const grpc::Slice slice(junk);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, method, {}, &request, &response,
                   [&](grpc::Status status) { done.set_value(status); });
    const grpc::Status status = done.get_future().get();
    const bool frames = method == std::string("/shoal.v1.Wire/Frames");
    EXPECT_EQ(status.error_code(),
              frames ? grpc::StatusCode::INVALID_ARGUMENT : grpc::StatusCode::UNIMPLEMENTED)
        << status.error_message();
  }
  close(socket);
  ASSERT_TRUE(a->send(NodeId{1}, StepFrame(4), Soon()).ok());
  const auto event = b->receive(Soon());
  EXPECT_EQ(event->kind, Event::Kind::kFrame);
  EXPECT_EQ(event->frame.header.step, StepId{4});
}

/// How many descriptors this process has open.
int64_t OpenDescriptors() {
  const auto entries = std::filesystem::directory_iterator("/dev/fd");
  return std::ranges::distance(begin(entries), end(entries)) - 1;  // Without the one that reads the folder.
}

bool FallsTo(int64_t count, Deadline deadline) {
  while (OpenDescriptors() > count && !deadline.expired()) std::this_thread::sleep_for(milliseconds(10));
  return OpenDescriptors() <= count;
}

/// A client that begins as HTTP/2 does, and then neither reads nor writes, as one behind a network that
/// swallows its packets.
int LostClient(int port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  SHOAL_CHECK_GE(socket, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  SHOAL_CHECK_EQ(connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string empty_settings("\0\0\0\x04\0\0\0\0\0", 9);
  const std::string beginning = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings;
  SHOAL_CHECK_EQ(::send(socket, beginning.data(), beginning.size(), MSG_NOSIGNAL), std::ssize(beginning));
  return socket;
}

TEST(Grpc, AThousandPeersThatVanishLeaveNoDescriptor) {
  RaiseDescriptorLimit();
  constexpr int kPeers = 1000;
  GrpcOptions options = Named(0);
  options.keepalive_interval = milliseconds(300);
  options.keepalive_timeout = milliseconds(300);
  options.connections_max = options.connections_per_address_max = 2 * kPeers;
  const auto endpoint = Start(options);
  const int64_t before = OpenDescriptors();
  std::vector<int> peers;
  while (std::ssize(peers) < kPeers) peers.push_back(LostClient(endpoint->port()));
  EXPECT_GT(OpenDescriptors(), before + kPeers);
  EXPECT_TRUE(FallsTo(before + kPeers, Soon())) << OpenDescriptors() - before - kPeers << " are left";
  for (const int socket : peers) close(socket);
  EXPECT_TRUE(FallsTo(before, Soon()));
}

TEST(Grpc, SessionsThatEndInABlackHoleLeaveNoDescriptor) {
  TwoNodes nodes;
  nodes.ping_every(milliseconds(100), milliseconds(150));
  nodes.start();
  const int64_t before = OpenDescriptors();
  for (uint64_t session = 1; session <= 5; ++session) {
    TcpProxy there(nodes.endpoints[1]->port());
    TcpProxy back(nodes.endpoints[0]->port());
    const auto a = Open(*nodes.endpoints[0], SessionOf(session, 0, there.address()));
    const auto b = Open(*nodes.endpoints[1], SessionOf(session, 1, back.address()));
    ASSERT_TRUE(a->connect(Soon()).ok());
    ASSERT_TRUE(b->connect(Soon()).ok());
    there.go_silent();
    back.go_silent();
    for (Transport* node : {a.get(), b.get()}) EXPECT_EQ(node->receive(Soon())->kind, Event::Kind::kPeerDown);
    (void)a->send(NodeId{1}, StepFrame(1), Deadline::after_ms(100));  // Dials into the hole.
    EXPECT_TRUE(FallsTo(before + 2 * 3 + 2, Soon())) << "proxies keep both ends of two links, and listen";
  }
  EXPECT_TRUE(FallsTo(before, Soon())) << OpenDescriptors() - before;
}

TEST(Grpc, AnEndpointThatRanOutOfDescriptorsTakesItsPeersAgain) {
  TwoNodes nodes;
  nodes.start();
  rlimit all{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
  std::vector<int> idle;
  for (int i = 0; i < 20; ++i) idle.push_back(::socket(AF_INET, SOCK_STREAM, 0));
  rlimit few = all;
  few.rlim_cur = static_cast<rlim_t>(idle.back()) + 4;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(nodes.endpoints[1]->port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (const int one : idle)
    ASSERT_EQ(connect(one, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  std::this_thread::sleep_for(milliseconds(300));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
  const auto a = nodes.open(1, 0);
  const auto b = nodes.open(1, 1);
  ASSERT_TRUE(a->send(NodeId{1}, StepFrame(4), Soon()).ok());
  EXPECT_EQ(b->receive(Soon())->frame.header.step, StepId{4});
  for (const int one : idle) close(one);
}

TEST(Grpc, AnEndpointThatGoesAwayClosesItsSessionInAnyOrder) {
  TwoNodes nodes;
  nodes.start();
  auto a = nodes.open(1, 0);
  auto b = nodes.open(1, 1);
  ASSERT_TRUE(a->connect(Soon()).ok());
  ASSERT_TRUE(b->connect(Soon()).ok());
  nodes.endpoints[1] = nullptr;
  EXPECT_TRUE(absl::IsCancelled(b->receive(Soon()).status()));
  EXPECT_EQ(a->receive(Soon())->kind, Event::Kind::kPeerDown);
  b = nullptr;
  a = nullptr;
  nodes.endpoints[0] = nullptr;
}

}  // namespace
}  // namespace shoal
