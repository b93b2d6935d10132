#include "wire/join_token.h"

#include <gmock/gmock.h>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

JoinToken Token() {
  return {{"10.0.0.1:50050", "[fd00::1]:50050"}, std::string("a key\0of sixteen bytes", 22)};
}

TEST(JoinToken, IsReadAsItWasWritten) {
  const std::string text = FormatJoinToken(Token());
  EXPECT_TRUE(IsJoinToken(text));
  EXPECT_EQ(text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
            std::string::npos);
  const auto token = ParseJoinToken(text);
  ASSERT_TRUE(token.ok()) << Message(token.status());
  EXPECT_EQ(*token, Token());
}

TEST(JoinToken, HasAnAuthorityWhereOneIsGiven) {
  JoinToken with = Token();
  with.authority = std::string("der\0 of some", 12);
  const std::string text = FormatJoinToken(with);
  EXPECT_TRUE(IsJoinToken(text));
  EXPECT_EQ(*ParseJoinToken(text), with);
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = changed[i] == 'x' ? 'y' : 'x';
    EXPECT_FALSE(ParseJoinToken(changed).ok()) << i;
  }
  std::string other = text;
  other[5] = '1';  // The authority would be the sum of one without.
  EXPECT_FALSE(ParseJoinToken(other).ok());
}

TEST(JoinToken, AnyOneChangeIsNoticedAndNothingOfItIsRepeated) {
  const std::string text = FormatJoinToken(Token());
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = changed[i] == 'x' ? 'y' : 'x';
    EXPECT_FALSE(ParseJoinToken(changed).ok()) << i;
    EXPECT_FALSE(ParseJoinToken(text.substr(0, i)).ok()) << i;
    EXPECT_THAT(Message(ParseJoinToken(changed).status()), Not(HasSubstr(text.substr(8, 20))));
  }
  EXPECT_FALSE(ParseJoinToken(text + "A").ok());
  EXPECT_FALSE(ParseJoinToken(text + "\n").ok());
}

TEST(JoinToken, WithoutAnAddressOrWithAShortKeyItIsNone) {
  EXPECT_FALSE(ParseJoinToken(FormatJoinToken({{}, Token().key})).ok());
  EXPECT_FALSE(ParseJoinToken(FormatJoinToken({{"host"}, Token().key})).ok());
  EXPECT_FALSE(ParseJoinToken(FormatJoinToken({{"host:1"}, "short"})).ok());
}

}  // namespace
}  // namespace shoal
