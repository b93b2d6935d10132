#include "api/http/origin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shoal {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

HttpRequest From(const std::string& origin, const std::string& host = "localhost:8000") {
  HttpRequest request{.method = "POST"};
  request.headers = {{"host", host}, {"origin", origin}};
  return request;
}

TEST(OriginPolicy, RefusesPagesUnlessTheyAreAllowed) {
  const OriginPolicy off({});
  EXPECT_TRUE(off.refuse(From("https://evil.example")).has_value());
  EXPECT_TRUE(off.refuse(From("null")).has_value());
  EXPECT_FALSE(off.refuse(HttpRequest{.method = "POST"}).has_value());
  const OriginPolicy some({"https://*.example.org", "http://localhost:*", "null"});
  for (const char* good : {"https://a.example.org", "http://LOCALHOST:3000", "null"}) {
    EXPECT_FALSE(some.refuse(From(good)).has_value()) << good;
  }
  for (const char* bad : {"https://example.org", "http://a.example.org", "https://evil.example/.example.org",
                          "http://localhost.evil.example", "https://a.example.org.evil.example"}) {
    EXPECT_TRUE(some.refuse(From(bad)).has_value()) << bad;
  }
  EXPECT_FALSE(OriginPolicy({"*"}).refuse(From("https://anything")).has_value());
  EXPECT_TRUE(some.refuse(From("https://" + std::string(10000, 'a') + ".example.org")).has_value());
}

TEST(OriginPolicy, ReadingIsNotRefused) {
  HttpRequest request = From("https://evil.example");
  for (const char* method : {"GET", "HEAD"}) {
    request.method = method;
    EXPECT_FALSE(OriginPolicy({}).refuse(request).has_value());
  }
}

TEST(OriginPolicy, RefusesWhatTheBrowserCallsCrossSite) {
  HttpRequest request{.method = "POST", .headers = {{"sec-fetch-site", "cross-site"}}};
  EXPECT_TRUE(OriginPolicy({}).refuse(request).has_value());
  request.headers = {{"sec-fetch-site", "same-origin"}};
  EXPECT_FALSE(OriginPolicy({}).refuse(request).has_value());
}

TEST(OriginPolicy, OurOwnPagesAreThoseOfAddressesThatNoNameServerDecides) {
  EXPECT_TRUE(IsSameOrigin("http://127.0.0.1:8000", "127.0.0.1:8000"));
  EXPECT_TRUE(IsSameOrigin("http://[::1]:8000", "[::1]:8000"));
  EXPECT_TRUE(IsSameOrigin("https://LocalHost", "localhost"));
  EXPECT_FALSE(IsSameOrigin("http://127.0.0.1:3000", "127.0.0.1:8000"));
  EXPECT_FALSE(IsSameOrigin("http://rebound.example:8000", "rebound.example:8000"));
  EXPECT_FALSE(IsSameOrigin("null", "localhost"));
  EXPECT_FALSE(IsSameOrigin("http://", ""));
}

TEST(OriginPolicy, GrantsToThoseAllowedOnly) {
  const OriginPolicy policy({"https://a"});
  EXPECT_THAT(policy.answer_headers(From("https://a")),
              Contains(Pair("Access-Control-Allow-Origin", "https://a")));
  EXPECT_THAT(policy.answer_headers(From("https://b")),
              Not(Contains(Pair("Access-Control-Allow-Origin", testing::_))));
  EXPECT_THAT(policy.preflight_headers(From("https://b"), "POST"), IsEmpty());
  EXPECT_THAT(OriginPolicy({}).answer_headers(From("https://a")), IsEmpty());
  // What could not stand in a header is left out.
  HttpRequest odd = From("https://a");
  odd.headers.emplace_back("access-control-request-headers", "x\x01y");
  for (const auto& [name, value] : policy.preflight_headers(odd, "POST")) {
    EXPECT_NE(name, "Access-Control-Allow-Headers");
  }
}

}  // namespace
}  // namespace shoal
