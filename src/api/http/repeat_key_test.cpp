#include "api/http/repeat_key.h"

#include <gtest/gtest.h>

#include "api/http/server.h"

namespace shoal {
namespace {

HttpRequest Sent(std::string key) {
  return {.path = "/v1/completions",
          .headers = {{"idempotency-key", std::move(key)}},
          .body = "{}",
          .caller = "ann"};
}

TEST(RepeatKey, OnlyRequestsThatSaySoHaveOne) {
  const auto none = RepeatKeyOf({.path = "/v1/completions", .body = "{}"});
  ASSERT_TRUE(none.has_value());
  EXPECT_FALSE(none->has_value());
  const auto one = RepeatKeyOf(Sent("a"));
  ASSERT_TRUE(one.has_value() && one->has_value());
  EXPECT_EQ(RepeatKeyOf(Sent("a")), one);
}

TEST(RepeatKey, KeysOfOthersAndOfOtherPathsAreOthers) {
  const RepeatKey one = **RepeatKeyOf(Sent("a"));
  HttpRequest other = Sent("a");
  other.caller = "bob";
  EXPECT_NE((*RepeatKeyOf(other))->key, one.key);
  other = Sent("a");
  other.path = "/v1/chat/completions";
  EXPECT_NE((*RepeatKeyOf(other))->key, one.key);
  EXPECT_NE((*RepeatKeyOf(Sent("b")))->key, one.key);
  other = Sent("a");
  other.body = "{ }";
  EXPECT_EQ((*RepeatKeyOf(other))->key, one.key);
  EXPECT_NE((*RepeatKeyOf(other))->content, one.content);
  // The parts can't be shifted among one another.
  other = Sent("nn/a");
  other.caller = "a";
  EXPECT_NE((*RepeatKeyOf(other))->key, one.key);
}

TEST(RepeatKey, WhatIsNoKeyIsRefused) {
  for (const std::string& wrong :
       {std::string(), std::string(256, 'a'), std::string("a\tb"), std::string("\xc3\xa4")}) {
    const auto refused = RepeatKeyOf(Sent(wrong));
    ASSERT_FALSE(refused.has_value()) << wrong;
    EXPECT_NE(refused.error().find("Idempotency-Key"), std::string::npos);
  }
  EXPECT_TRUE(RepeatKeyOf(Sent(std::string(255, 'a'))).has_value());
}

}  // namespace
}  // namespace shoal
