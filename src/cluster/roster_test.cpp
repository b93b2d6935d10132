#include "cluster/roster.h"

#include <gmock/gmock.h>

#include "base/status.h"

namespace shoal {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

JoinOffer Offer(const std::string& name, uint64_t instance, const std::string& address) {
  return {.name = name, .instance = instance, .addresses = {address}};
}

/// A roster in the test's time.
class Register {
 public:
  explicit Register(RosterRules rules = {}) : roster(rules) {}

  void admit(const std::string& name, uint64_t instance = 1, const std::string& address = "h:1",
             std::optional<int32_t> rank = std::nullopt) {
    JoinOffer offer = Offer(name, instance, address);
    offer.rank = rank;
    roster.admit(offer, address, now);
  }
  bool renews(const std::string& name, uint64_t instance, const std::string& address) {
    return roster.renew(Offer(name, instance, address), now).has_value();
  }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const JoinedMember& member : roster.members()) list.push_back(member.name);
    return list;
  }

  Roster roster;
  Clock::time_point now;
};

TEST(Roster, AnOfferRenewsTheLeaseOfTheSameProcessAtTheSameAddressOnly) {
  Register book;
  EXPECT_FALSE(book.renews("a", 1, "h:1"));
  book.admit("a", 1, "h:1");
  EXPECT_TRUE(book.renews("a", 1, "h:1"));
  EXPECT_FALSE(book.renews("a", 2, "h:1"));  // Another process.
  EXPECT_FALSE(book.renews("a", 1, "h:2"));  // It has moved.
  EXPECT_FALSE(book.renews("b", 1, "h:1"));
}

TEST(Roster, WhoComesBackUnderTheNameTakesItsPlace) {
  Register book;
  book.admit("a", 1, "h:1");
  book.admit("a", 2, "h:2");
  EXPECT_THAT(book.names(), ElementsAre("a"));
  EXPECT_EQ(book.roster.find("a")->address, "h:2");
  EXPECT_FALSE(book.roster.leave("a", 1));  // The goodbye of the one before comes late.
  EXPECT_THAT(book.names(), ElementsAre("a"));
  EXPECT_TRUE(book.roster.leave("a", 2));
  EXPECT_THAT(book.names(), IsEmpty());
}

TEST(Roster, OneThatIsSilentForLongIsForgottenUnlessItAnswers) {
  Register book;
  book.admit("a");
  book.admit("b");
  book.admit("c");
  book.now += minutes(9);
  EXPECT_TRUE(book.renews("a", 1, "h:1"));
  book.roster.answered("b", book.now);
  EXPECT_THAT(book.roster.forget(book.now), IsEmpty());
  book.now += minutes(1);
  EXPECT_THAT(book.roster.forget(book.now), ElementsAre("c"));
  book.now += minutes(9);
  EXPECT_THAT(book.roster.forget(book.now), ElementsAre("a", "b"));
  EXPECT_THAT(book.names(), IsEmpty());
}

TEST(Roster, ANameThatWasThereBeforeIsRefused) {
  Register book;
  book.roster.reserve({{"coordinator", ""}, {"mini1", "10.0.0.1:5"}});
  EXPECT_THAT(Message(book.roster.may_join(Offer("coordinator", 1, "h:1"), book.now)),
              HasSubstr("name of the coordinator"));
  EXPECT_THAT(Message(book.roster.may_join(Offer("mini1", 1, "h:1"), book.now)),
              HasSubstr("worker at 10.0.0.1:5"));
  EXPECT_TRUE(book.roster.may_join(Offer("mini2", 1, "h:1"), book.now).ok());
}

TEST(Roster, ThereAreOnlySoManyMembersAndTheSilentOnesGoFirst) {
  Register book({.members_max = 2});
  book.admit("a");
  book.now += minutes(9);
  book.admit("b");
  EXPECT_TRUE(absl::IsResourceExhausted(book.roster.may_join(Offer("c", 1, "h:1"), book.now)));
  EXPECT_TRUE(book.roster.may_join(Offer("a", 2, "h:1"), book.now).ok());  // It is one already.
  book.now += minutes(1);
  EXPECT_TRUE(book.roster.may_join(Offer("c", 1, "h:1"), book.now).ok());
  EXPECT_THAT(book.names(), ElementsAre("b"));
}

TEST(Roster, MembersComeByRankThenByNameWhoeverCameFirst) {
  Register book;
  book.admit("d");
  book.admit("b", 1, "h:1", 2);
  book.admit("c");
  book.admit("a", 1, "h:1", 10);
  EXPECT_THAT(book.names(), ElementsAre("b", "a", "c", "d"));
}

}  // namespace
}  // namespace shoal
