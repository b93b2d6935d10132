#include "wire/handshake.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "base/status.h"
#include "wire/payload.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

KeyAuth Key(const std::string& text = "correct horse battery staple") { return *KeyAuth::from_key(text); }

Hello HelloOf(int from, int to) {
  return {.session = 0xabc,
          .from = NodeId{from},
          .to = NodeId{to},
          .from_name = fmt::format("mini{}", from),
          .identity = {.numerics_class = "shoal-cpu/3", .model_hash = "0011", .kv_dtype = "f16"},
          .nonce = RandomNonce()};
}

/// Node 0 dials node 1. The first error of either side, or OK when both are satisfied.
absl::Status Shake(Hello initiator_hello, std::optional<KeyAuth> initiator_key, Hello responder_hello,
                   std::optional<KeyAuth> responder_key) {
  InitiatorHandshake initiator(std::move(initiator_hello), std::move(initiator_key));
  ResponderHandshake responder(std::move(responder_hello), std::move(responder_key));
  ASSIGN_OR_RETURN(const Frame ack, responder.on_hello(initiator.hello()));
  ASSIGN_OR_RETURN(const Frame proof, initiator.on_ack(ack));
  ASSIGN_OR_RETURN(const Frame ready, responder.on_proof(proof));
  return ExpectKind(ready, FrameKind::kReady);
}

TEST(Handshake, EqualNodesAgreeWithAndWithoutAKey) {
  EXPECT_TRUE(Shake(HelloOf(0, 1), std::nullopt, HelloOf(1, 0), std::nullopt).ok());
  EXPECT_TRUE(Shake(HelloOf(0, 1), Key(), HelloOf(1, 0), Key()).ok());
}

TEST(Handshake, DifferentKeysAreRefusedAndNoMessageHoldsOne) {
  const auto status =
      Shake(HelloOf(0, 1), Key("the key of node zero"), HelloOf(1, 0), Key("the key of node one"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(Message(status), HasSubstr("node 1 'mini1'"));
  EXPECT_THAT(Message(status), testing::Not(HasSubstr("the key of")));
}

TEST(Handshake, AKeyOnOneSideOnlyIsRefusedAndSaysWhichSide) {
  auto status = Shake(HelloOf(0, 1), Key(), HelloOf(1, 0), std::nullopt);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(Message(status), HasSubstr("node 1 'mini1' has no key, node 0 'mini0' has one"));
  status = Shake(HelloOf(0, 1), std::nullopt, HelloOf(1, 0), Key());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(Message(status), HasSubstr("node 1 'mini1' has a key, node 0 'mini0' has none"));
}

TEST(Handshake, NodesThatWouldNotComputeTheSameAreRefusedWithBothValues) {
  Hello other = HelloOf(1, 0);
  other.identity.model_hash = "ffee";
  auto status = Shake(HelloOf(0, 1), std::nullopt, other, std::nullopt);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("model"), HasSubstr("0011"), HasSubstr("ffee")));
  other = HelloOf(1, 0);
  other.identity.numerics_class = "shoal-cpu/9";
  status = Shake(HelloOf(0, 1), std::nullopt, other, std::nullopt);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("numerics class"), HasSubstr("node 1 'mini1' computes as 'shoal-cpu/9'"),
                    HasSubstr("node 0 'mini0' as 'shoal-cpu/3'")));
  other = HelloOf(1, 0);
  other.identity.kv_dtype = "f32";
  status = Shake(HelloOf(0, 1), std::nullopt, other, std::nullopt);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("kv dtype"), HasSubstr("f16"), HasSubstr("f32")));
  other = HelloOf(1, 0);
  other.session = 0xdef;
  status = Shake(HelloOf(0, 1), std::nullopt, other, std::nullopt);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("session"), HasSubstr("0abc"), HasSubstr("0def")));
}

TEST(Handshake, AnInitiatorThatReachedTheWrongNodeIsTold) {
  const auto status = Shake(HelloOf(0, 2), std::nullopt, HelloOf(1, 0), std::nullopt);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("node 0 'mini0' to node 2"));
}

TEST(Handshake, AProofIsGoodForItsOwnNoncesOnly) {
  InitiatorHandshake initiator(HelloOf(0, 1), Key());
  ResponderHandshake first(HelloOf(1, 0), Key());
  const auto ack = first.on_hello(initiator.hello());
  ASSERT_TRUE(ack.ok());
  const auto proof = initiator.on_ack(*ack);
  ASSERT_TRUE(proof.ok());
  ResponderHandshake second(HelloOf(1, 0), Key());  // The same hello, replayed to a fresh nonce.
  ASSERT_TRUE(second.on_hello(initiator.hello()).ok());
  EXPECT_EQ(second.on_proof(*proof).status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(first.on_proof(*proof).ok());
}

TEST(Handshake, ARespondersProofReflectedBackIsRefused) {
  InitiatorHandshake initiator(HelloOf(0, 1), Key());
  ResponderHandshake responder(HelloOf(1, 0), Key());
  const auto ack = responder.on_hello(initiator.hello());
  ASSERT_TRUE(ack.ok());
  // Without the key, all an attacker has is what the responder sent: its proof ends the ack.
  const auto bytes = ack->payload.bytes();
  PayloadWriter writer;
  writer.string({reinterpret_cast<const char*>(bytes.data()) + bytes.size() - 32, 32});
  Frame reflected;
  reflected.header.kind = FrameKind::kHelloProof;
  reflected.payload = writer.finish();
  EXPECT_EQ(responder.on_proof(reflected).status().code(), absl::StatusCode::kUnauthenticated);
}

TEST(Handshake, FramesOutOfTurnAreRefused) {
  InitiatorHandshake initiator(HelloOf(0, 1), std::nullopt);
  ResponderHandshake responder(HelloOf(1, 0), std::nullopt);
  EXPECT_EQ(initiator.on_ack(initiator.hello()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(responder.on_proof(initiator.hello()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(KeyAuth, ProvesAsHmacSha256DoesElsewhere) {
  // python3: hmac.new(b"0123456789abcdef", b"4:role7:message", "sha256").hexdigest()
  const std::string proof = Key("0123456789abcdef").prove({"role", "message"});
  std::string hex;
  for (const char c : proof) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  EXPECT_EQ(hex, "4c4340d84bec371aedcdf20ff5eab73f2da9bda18332a4208f8a38da4fb3a59a");
}

TEST(KeyAuth, AProofHoldsForItsPurposeMessageAndKeyOnly) {
  const KeyAuth key = Key();
  const std::string proof = key.prove({"role", "message"});
  EXPECT_TRUE(key.verify({"role", "message"}, proof));
  EXPECT_FALSE(key.verify({"rol", "emessage"}, proof));
  EXPECT_FALSE(key.verify({"role", "message "}, proof));
  EXPECT_FALSE(key.verify({"role", "message"}, proof.substr(1)));
  EXPECT_FALSE(key.verify({"role", "message"}, ""));
  EXPECT_FALSE(Key("another key of the same kind").verify({"role", "message"}, proof));
}

TEST(KeyAuth, AKeyFileIsReadWithoutItsLineEndAndMustBePrivateAndLong) {
  const std::string path = testing::TempDir() + "shoal_key_test";
  const auto write = [&](std::string_view text, std::filesystem::perms perms) {
    std::ofstream(path, std::ios::binary) << text;
    std::filesystem::permissions(path, perms);
  };
  using std::filesystem::perms;
  const auto only_me = perms::owner_read | perms::owner_write;
  write("0123456789abcdef\r\n", only_me);
  const auto key = KeyAuth::from_file(path);
  ASSERT_TRUE(key.ok()) << Message(key.status());
  EXPECT_EQ(key->prove({"a", "b"}), Key("0123456789abcdef").prove({"a", "b"}));
  write("0123456789abcdef\n", only_me | perms::others_read);
  EXPECT_THAT(Message(KeyAuth::from_file(path).status()), HasSubstr("chmod 600"));
  write("short\n", only_me);
  EXPECT_THAT(Message(KeyAuth::from_file(path).status()), AllOf(HasSubstr(path), HasSubstr("got 5")));
  write(std::string(kKeyFileBytesMax + 1, 'k'), only_me);
  EXPECT_THAT(Message(KeyAuth::from_file(path).status()), AllOf(HasSubstr(path), HasSubstr("at most 64")));
  std::filesystem::remove(path);
  EXPECT_EQ(KeyAuth::from_file(path).status().code(), absl::StatusCode::kNotFound);
}

TEST(KeyAuth, ATokenOpensOneCallOnce) {
  TokenChecker checker(Key());
  const std::string token = Key().issue_token(checker.challenge(), "/shoal.v1.Control/Load");
  EXPECT_TRUE(checker.check(token, "/shoal.v1.Control/Load").ok());
  EXPECT_THAT(Message(checker.check(token, "/shoal.v1.Control/Load")), HasSubstr("used before"));
  EXPECT_FALSE(
      checker
          .check(Key().issue_token(checker.challenge(), "/shoal.v1.Control/Load"), "/shoal.v1.Control/Stop")
          .ok());
  const std::string other = Key("another key of the same kind").issue_token(checker.challenge(), "x");
  EXPECT_THAT(Message(checker.check(other, "x")), HasSubstr("--key-file"));
  EXPECT_THAT(Message(checker.check("", "x")), HasSubstr("--key-file"));
  for (const char* bad : {"x", "1.2.3", "..", "1..2", "99999999999999999999.a.b"}) {
    EXPECT_EQ(checker.check(bad, "x").code(), absl::StatusCode::kUnauthenticated) << bad;
  }
}

TEST(KeyAuth, ATokenIsGoodForOneProcessOnly) {
  TokenChecker here(Key());
  TokenChecker elsewhere(Key());
  const std::string token = Key().issue_token(here.challenge(), "x");
  EXPECT_THAT(Message(elsewhere.check(token, "x")), HasSubstr("another process"));
  EXPECT_TRUE(here.check(token, "x").ok());
  EXPECT_EQ(Key().issue_token("", "x"), "");
}

TEST(KeyAuth, ATokenIsGoodForTwoRoundsOfChallengesAndNeverTwice) {
  constexpr int64_t kRoundNs = TokenChecker::kChallengeSeconds * 1'000'000'000;
  int64_t now_ns = 5;
  TokenChecker checker(Key(), [&now_ns] { return now_ns; });
  const std::string first = Key().issue_token(checker.challenge(), "x");
  const std::string second = Key().issue_token(checker.challenge(), "x");
  const std::string third = Key().issue_token(checker.challenge(), "x");
  EXPECT_TRUE(checker.check(first, "x").ok());
  now_ns += kRoundNs;
  EXPECT_TRUE(checker.check(second, "x").ok());
  EXPECT_THAT(Message(checker.check(first, "x")), HasSubstr("used before"));
  EXPECT_THAT(Message(checker.check(second, "x")), HasSubstr("used before"));
  now_ns += kRoundNs;
  EXPECT_THAT(Message(checker.check(third, "x")), HasSubstr("too long ago"));
  EXPECT_TRUE(checker.check(Key().issue_token(checker.challenge(), "x"), "x").ok());
  now_ns += 3 * kRoundNs;  // Nobody called for a while.
  EXPECT_THAT(Message(checker.check(first, "x")), HasSubstr("too long ago"));
}

}  // namespace
}  // namespace shoal
