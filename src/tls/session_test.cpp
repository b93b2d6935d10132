#include "tls/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tls/digest.h"
#include "tls/testing/identities.h"

namespace shoal {
namespace {

using testing::HasSubstr;

/// A client and a server that hand one another what they have to say, in pieces of any size.
struct Pair {
  Pair(TestAuthority& authority, const NodeCertificateOrder& order, const std::string& name,
       const std::string& believed)
      : server(ServerOf(authority, order)), client(*TlsContext::Client(believed), name) {}

  static std::shared_ptr<const TlsContext> ServerOf(TestAuthority& authority,
                                                    const NodeCertificateOrder& order) {
    const auto made = MakeNodeCertificate(authority.key(), order);
    return *TlsContext::Server(made->certificate, made->key, "test");
  }

  /// Until neither has anything to say; the first error.
  absl::Status exchange(size_t piece = 1000) {
    absl::Status first;
    for (bool more = true; more;) {
      const std::string up = client.take_output();
      const std::string down = server.take_output();
      more = !up.empty() || !down.empty();
      for (size_t at = 0; at < up.size(); at += piece)
        note(first, server.receive(up.substr(at, piece), at_server));
      for (size_t at = 0; at < down.size(); at += piece)
        note(first, client.receive(down.substr(at, piece), at_client));
    }
    return first;
  }
  static void note(absl::Status& first, const absl::Status& status) {
    if (first.ok()) first = status;
  }

  TlsSession server;
  TlsSession client;
  std::string at_server;
  std::string at_client;
};

TEST(TlsSession, WhatIsSentBeforeTheHandshakeArrivesAfterIt) {
  TestAuthority authority;
  for (const size_t piece : {1, 7, 100'000}) {
    Pair pair(authority, {.name = "a", .addresses = {"127.0.0.1"}}, "127.0.0.1", authority.key().certificate);
    const std::string large(300'000, 'x');
    pair.client.send("GET / HTTP/1.1\r\n\r\n");
    EXPECT_FALSE(pair.client.established());
    ASSERT_TRUE(pair.exchange(piece).ok());
    EXPECT_EQ(pair.at_server, "GET / HTTP/1.1\r\n\r\n");
    pair.server.send(large);
    pair.server.close();
    ASSERT_TRUE(pair.exchange(piece).ok());
    EXPECT_EQ(pair.at_client, large);
    EXPECT_TRUE(pair.client.peer_closed());
    EXPECT_FALSE(pair.server.peer_closed());
  }
}

TEST(TlsSession, AClientBelievesItsAuthorityAndTheRightNameOnly) {
  TestAuthority authority;
  TestAuthority other;
  const auto handshake = [&](const std::string& name, const std::string& believed, int days = 10,
                             int64_t now_s = UnixSeconds()) {
    return Pair(authority, {.name = "a", .addresses = {"::1"}, .days = days, .now_s = now_s}, name, believed)
        .exchange();
  };
  const std::string& own = authority.key().certificate;
  EXPECT_TRUE(handshake("a", own).ok());
  EXPECT_TRUE(handshake("::1", own).ok());
  EXPECT_TRUE(absl::IsUnauthenticated(handshake("b", own)));
  EXPECT_TRUE(absl::IsUnauthenticated(handshake("127.0.0.1", own)));
  EXPECT_TRUE(absl::IsUnauthenticated(handshake("a", other.key().certificate)));
  EXPECT_THAT(Message(handshake("a", own, 1, UnixSeconds() - 3 * 86400)), HasSubstr("expired"));
}

TEST(TlsSession, BytesThatAreNoTlsBreakItAndNothingMore) {
  TestAuthority authority;
  Pair pair(authority, {.name = "a"}, "a", authority.key().certificate);
  std::string plain;
  EXPECT_TRUE(absl::IsDataLoss(pair.server.receive("GET / HTTP/1.1\r\nHost: x\r\n\r\n", plain)));
  EXPECT_TRUE(absl::IsDataLoss(pair.server.receive("more", plain)));
  pair.server.send("x");
  pair.server.close();
  EXPECT_EQ(plain, "");
  EXPECT_TRUE(BeginsTls(pair.client.take_output().front()));
  EXPECT_FALSE(BeginsTls('G'));
}

TEST(TlsContext, FilesThatDoNotBelongTogetherAreRefused) {
  TestAuthority authority;
  const auto a = MakeNodeCertificate(authority.key(), {.name = "a"});
  const auto b = MakeNodeCertificate(authority.key(), {.name = "b"});
  EXPECT_THAT(Message(TlsContext::Server(a->certificate, b->key, "x.pem").status()),
              HasSubstr("x.pem: the key is not that of the certificate"));
  EXPECT_FALSE(TlsContext::Server("", a->key, "x.pem").ok());
  EXPECT_FALSE(TlsContext::Client("no certificate").ok());
}

TEST(Digest, IsTheKnownOne) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_TRUE(SameInConstantTime("ab", "ab"));
  EXPECT_FALSE(SameInConstantTime("ab", "ac"));
  EXPECT_FALSE(SameInConstantTime("ab", "abc"));
  EXPECT_EQ(RandomHex(16).size(), 32u);
  EXPECT_NE(RandomHex(16), RandomHex(16));
}

}  // namespace
}  // namespace shoal
