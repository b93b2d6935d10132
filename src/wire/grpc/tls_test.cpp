// Streams between nodes with certificates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/status.h"
#include "tls/probe.h"
#include "tls/testing/identities.h"
#include "wire/grpc/endpoint.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr Duration kTimeout = std::chrono::seconds(20);
/// For attempts that fail, again and again.
constexpr Duration kRefusalTimeout = std::chrono::milliseconds(700);

using Identity = std::shared_ptr<const TlsIdentity>;

/// Two endpoints, each with a certificate or none.
struct TwoNodes {
  TwoNodes(Identity first, Identity second) {
    const Identity identities[2] = {std::move(first), std::move(second)};
    for (int i = 0; i < 2; ++i) {
      GrpcOptions options{.name = fmt::format("mini{}", i),
                          .handshake_timeout = std::chrono::milliseconds(1500)};
      options.key.tls = identities[i];
      auto endpoint = GrpcEndpoint::start(std::move(options));
      SHOAL_CHECK(endpoint.ok());
      endpoints[i] = *std::move(endpoint);
    }
    for (int i = 0; i < 2; ++i) {
      auto transport = endpoints[i]->open_session(
          {.session = 7,
           .self = NodeId{i},
           .peers = {{NodeId{1 - i}, fmt::format("mini{}", 1 - i), address(1 - i)}},
           .identity = {.numerics_class = "shoal-cpu/1", .model_hash = "0011", .kv_dtype = "f16"}});
      SHOAL_CHECK(transport.ok());
      transports[i] = *std::move(transport);
    }
  }
  std::string address(int node) const { return fmt::format("127.0.0.1:{}", endpoints[node]->port()); }
  absl::Status connect() { return transports[0]->connect(Deadline::after(kRefusalTimeout)); }

  std::unique_ptr<GrpcEndpoint> endpoints[2];
  std::unique_ptr<Transport> transports[2];
};

TEST(GrpcTls, FramesTravelBetweenNodesOfOneAuthority) {
  TestAuthority authority;
  TwoNodes nodes(authority.node("mini0"), authority.node("mini1"));
  ASSERT_TRUE(nodes.transports[0]->connect(Deadline::after(kTimeout)).ok());
  for (uint64_t step = 1; step <= 50; ++step) {
    Frame frame;
    frame.header.step = StepId{step};
    ASSERT_TRUE(nodes.transports[0]->send(NodeId{1}, std::move(frame), Deadline::after(kTimeout)).ok());
  }
  for (uint64_t step = 1; step <= 50; ++step) {
    const auto event = nodes.transports[1]->receive(Deadline::after(kTimeout));
    ASSERT_TRUE(event.ok() && event->kind == Event::Kind::kFrame);
    EXPECT_EQ(event->frame.header.step, StepId{step});
  }
}

TEST(GrpcTls, NodesWithoutTheRightCertificateAreRefusedFromEitherSide) {
  TestAuthority authority;
  TestAuthority other;
  const Identity good[2] = {authority.node("mini0"), authority.node("mini1")};
  EXPECT_FALSE(TwoNodes(good[0], other.node("mini1")).connect().ok());
  EXPECT_FALSE(TwoNodes(other.node("mini0"), good[1]).connect().ok());
  EXPECT_FALSE(TwoNodes(good[0], nullptr).connect().ok());
  EXPECT_FALSE(TwoNodes(nullptr, good[1]).connect().ok());
  EXPECT_FALSE(TwoNodes(good[0], authority.ended_node("mini1")).connect().ok());
  EXPECT_FALSE(TwoNodes(authority.ended_node("mini0"), good[1]).connect().ok());
  EXPECT_FALSE(TwoNodes(good[0], authority.node("mini2")).connect().ok());  // Another node of the cluster.
  const absl::Status impostor = TwoNodes(authority.node("mini2"), good[1]).connect();
  EXPECT_THAT(Message(impostor), AllOf(HasSubstr("'mini0'"), HasSubstr("mini2")));
}

TEST(GrpcTls, ACertificateThatIsRenewedIsShownWithoutARestart) {
  TestAuthority authority;
  const TlsFiles files = authority.files_of({.name = "mini1", .days = 40});
  const auto renewed = *TlsIdentity::Load(files);
  const TwoNodes nodes(authority.node("mini0"), renewed);
  const Identity asks = authority.node("mini0");
  const auto days_left = [&] {
    const auto facts = ProbeTls({"mini1", nodes.address(1)}, *asks, Deadline::after(kTimeout));
    return facts.ok() ? (facts->ends_s - UnixSeconds() + 100) / 86400 : -1;
  };
  EXPECT_EQ(days_left(), 40);
  const TlsFiles fresh = authority.files_of({.name = "mini1", .days = 50});
  for (const auto& [from, to] :
       {std::pair(fresh.certificate, files.certificate), std::pair(fresh.key, files.key)})
    std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
  ASSERT_TRUE(renewed->reload().ok());
  EXPECT_EQ(days_left(), 50);
  ASSERT_TRUE(nodes.transports[0]->connect(Deadline::after(kTimeout)).ok());
}

TEST(GrpcTls, AProbeSaysWhatIsWrongAndWhatToType) {
  TestAuthority authority;
  TestAuthority other;
  const Identity own = authority.node("mini0");
  const auto probe = [&](const Identity& asks, const Identity& answers, const std::string& name = "mini1") {
    const TwoNodes nodes(own, answers);
    const TlsPeer peer{name, nodes.address(1)};
    const auto facts = ProbeTls(peer, *asks, Deadline::after(kTimeout));
    return facts.ok() ? facts->subject : Message(facts.status());
  };
  EXPECT_EQ(probe(own, authority.node("mini1")), "mini1");
  EXPECT_EQ(probe(own, authority.node("mini1"), ""), "mini1");
  EXPECT_THAT(probe(own, authority.node("mini2")),
              AllOf(HasSubstr("is for 'mini2'"), HasSubstr("shoal cert node mini1")));
  EXPECT_THAT(probe(own, authority.ended_node("mini1")),
              AllOf(HasSubstr("ended on"), HasSubstr("shoal cert node mini1")));
  EXPECT_THAT(probe(own, other.node("mini1")), HasSubstr("is not of the authority"));
  EXPECT_THAT(probe(own, nullptr), HasSubstr("does not speak TLS"));
  EXPECT_THAT(probe(other.node("mini0"), authority.node("mini1")), HasSubstr("is not of the authority"));
  EXPECT_THAT(
      probe(authority.ended_node("mini0"), authority.node("mini1")),
      AllOf(HasSubstr("certificate of 'mini0', which has ended"), HasSubstr("shoal cert node mini0")));
}

}  // namespace
}  // namespace shoal
