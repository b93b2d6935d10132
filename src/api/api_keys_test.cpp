#include "api/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/status.h"
#include "tls/digest.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kSecondNs = 1'000'000'000;

HttpRequest With(const std::string& name, const std::string& value, const std::string& method = "POST") {
  HttpRequest request{.method = method};
  request.headers = {{name, value}};
  return request;
}

int StatusOf(const HttpAdmission& admission) {
  return admission.refusal.has_value() ? admission.refusal->status : 200;
}

TEST(ApiKeys, ReadsAFileOfKeys) {
  const auto keys = ParseApiKeys("# ours\n\n  abc name=ann concurrent=2 per-minute=60\r\ndef\n", "keys");
  ASSERT_TRUE(keys.ok()) << ToString(keys.status());
  ASSERT_EQ(keys->size(), 2U);
  EXPECT_EQ((*keys)[0].digest, Sha256Hex("abc"));
  EXPECT_FALSE((*keys)[0].hashed);
  EXPECT_EQ((*keys)[0].name, "ann");
  EXPECT_EQ((*keys)[0].concurrent_max, 2);
  EXPECT_EQ((*keys)[0].per_minute_max, 60);
  EXPECT_EQ((*keys)[1].name, "key-2");
  EXPECT_EQ((*keys)[1].concurrent_max, 0);
  EXPECT_EQ(ParseApiKeys("abc", "--api-key", "api-key")->front().name, "api-key-1");
}

TEST(ApiKeys, AFileThatHoldsDigestsOnlyKnowsTheKeysAllTheSame) {
  // printf abc | sha256sum
  const auto keys = ParseApiKeys(
      "sha256:BA7816BF8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad name=ann\n", "keys");
  ASSERT_TRUE(keys.ok()) << ToString(keys.status());
  EXPECT_TRUE(keys->front().hashed);
  ApiKeys known(*keys);
  EXPECT_EQ(StatusOf(known.admit(With("authorization", "Bearer abc"))), 200);
  EXPECT_EQ(StatusOf(known.admit(With("authorization", "Bearer abd"))), 401);
  // Who reads the file has no key by that.
  EXPECT_EQ(StatusOf(known.admit(With("x-api-key", keys->front().digest))), 401);
  EXPECT_EQ(StatusOf(known.admit(With("x-api-key", "sha256:" + keys->front().digest))), 401);
  EXPECT_FALSE(ParseApiKeys("abc\nsha256:" + keys->front().digest + "\n", "keys").ok());
}

TEST(ApiKeys, AKeyHasThePriorityOfItsLine) {
  const auto parsed = ParseApiKeys("a name=ann priority=-5\nb name=bob\nc name=ann priority=-5\n", "keys");
  ASSERT_TRUE(parsed.ok()) << ToString(parsed.status());
  std::vector<ApiKey> all = *parsed;
  all.push_back({.digest = Sha256Hex("d"), .name = "ann", .priority = 7});  // Of another source.
  EXPECT_EQ(ApiKeys(*parsed).priority_of("ann"), -5);
  EXPECT_EQ(ApiKeys(all).priority_of("ann"), 7);
  EXPECT_EQ(ApiKeys(all).priority_of("bob"), 0);
  EXPECT_EQ(ApiKeys(all).priority_of("nobody"), 0);
}

TEST(ApiKeys, SaysWhichLineIsWrongAndNeverTheKey) {
  for (const char* wrong :
       {"good\nsecret nonsense", "good\nsecret concurrent=0", "good\nsecret per-minute=x",
        "good\nsecret name=", "good\nsecret per-minute=1e3", "secret\nsecret", "good\nsecret priority=101",
        "good\nsha256:secret", "good\nsha256:0123", "good\nsecret priority=low",
        "good\nsecret priority=", "good name=a priority=2\nsecret name=a"}) {
    const auto keys = ParseApiKeys(wrong, "keys.txt");
    EXPECT_EQ(keys.status().code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_THAT(Message(keys.status()), AllOf(HasSubstr("keys.txt, line 2"), Not(HasSubstr("secret"))))
        << wrong;
  }
  EXPECT_FALSE(ParseApiKeys("# only a comment\n", "keys").ok());
}

TEST(ApiKeys, AdmitsThoseWhoShowAKeyThatItKnows) {
  ApiKeys keys({{.digest = Sha256Hex("abc"), .name = "ann"}, {.digest = Sha256Hex("abd"), .name = "bob"}});
  EXPECT_EQ(keys.admit(With("authorization", "Bearer abc")).caller, "ann");
  EXPECT_EQ(keys.admit(With("authorization", "bearer  abd")).caller, "bob");
  EXPECT_EQ(keys.admit(With("x-api-key", "abd")).caller, "bob");
  for (const char* wrong : {"Bearer ab", "Bearer abcd", "Bearer ", "abc", "Basic abc", ""}) {
    const HttpAdmission admission = keys.admit(With("authorization", wrong));
    ASSERT_EQ(StatusOf(admission), 401) << wrong;
    EXPECT_THAT(admission.refusal->body, HasSubstr(R"("code":"invalid_api_key")"));
    EXPECT_THAT(admission.refusal->headers, testing::Contains(testing::Pair("WWW-Authenticate", "Bearer")));
  }
}

TEST(ApiKeys, BoundsTheRequestsOfAKeyAtOnce) {
  ApiKeys keys({{.digest = Sha256Hex("a"), .name = "ann", .concurrent_max = 2},
                {.digest = Sha256Hex("b"), .name = "bob"}});
  const HttpRequest request = With("x-api-key", "a");
  HttpAdmission first = keys.admit(request);
  const HttpAdmission second = keys.admit(request);
  EXPECT_EQ(StatusOf(second), 200);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(StatusOf(keys.admit(request)), 429) << i;
  EXPECT_EQ(StatusOf(keys.admit(With("x-api-key", "b"))), 200);
  EXPECT_EQ(StatusOf(keys.admit(With("x-api-key", "a", "GET"))), 200);
  first.held.reset();
  EXPECT_EQ(StatusOf(keys.admit(request)), 200);
}

TEST(ApiKeys, BoundsTheRequestsOfAKeyPerMinute) {
  int64_t now = 0;
  ApiKeys keys({{.digest = Sha256Hex("a"), .name = "ann", .per_minute_max = 6}}, [&now] { return now; });
  const HttpRequest request = With("x-api-key", "a");
  for (int i = 0; i < 6; ++i) EXPECT_EQ(StatusOf(keys.admit(request)), 200) << i;
  now += 4 * kSecondNs;
  const HttpAdmission refused = keys.admit(request);
  ASSERT_EQ(StatusOf(refused), 429);
  EXPECT_THAT(refused.refusal->headers, testing::Contains(testing::Pair("Retry-After", "6")));
  now += 7 * kSecondNs;
  EXPECT_EQ(StatusOf(keys.admit(request)), 200);
  EXPECT_EQ(StatusOf(keys.admit(request)), 429);
  now += 3600 * kSecondNs;  // No more than a minute's worth is saved up.
  for (int i = 0; i < 6; ++i) EXPECT_EQ(StatusOf(keys.admit(request)), 200) << i;
  EXPECT_EQ(StatusOf(keys.admit(request)), 429);
}

}  // namespace
}  // namespace shoal
