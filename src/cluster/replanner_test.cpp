#include "cluster/replanner.h"

#include <gmock/gmock.h>

#include <functional>

#include "base/status.h"

namespace shoal {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A cluster of a coordinator "a" and workers, each of which is there or not; time is the test's.
class Town {
 public:
  explicit Town(size_t members, AttendanceRules rules = {}) : replanner(rules) {
    for (size_t i = 0; i < members; ++i) move_in();
  }

  void move_in() {
    reports.push_back({.id = next_, .name = std::string(1, static_cast<char>('a' + next_))});
    ++next_;
  }
  void move_out(size_t member) { reports.erase(reports.begin() + static_cast<ptrdiff_t>(member)); }

  void go(size_t member) {
    reports[member].answer = Unavailable("node '{}': connection refused", reports[member].name);
  }
  void crash(size_t member) {  // In a session, with a restart at once.
    ++reports[member].losses;
  }
  void come_back(size_t member) { reports[member].answer = absl::OkStatus(); }
  void pass(Duration duration) { now += duration; }

  absl::StatusOr<Plan> plan() {
    return replanner.plan(
        reports, [this](const std::vector<bool>& out) { return make(out); }, now);
  }
  /// It goes, and is waited for as long as members are.
  void lose(size_t member) {
    go(member);
    plan().IgnoreError();
    pass(seconds(15));
  }
  /// The nodes of the plan, or the error.
  std::string nodes() {
    const absl::StatusOr<Plan> made = plan();
    if (!made.ok()) return std::string(Message(made.status()));
    std::string names;
    for (const PlanNode& node : made->nodes) names += node.name;
    return names;
  }
  /// A plan, and a session of it.
  std::string serve() {
    std::string names = nodes();
    replanner.opened();
    return names;
  }
  std::optional<Replanner::Better> better() {
    return replanner.better(
        reports, [this](const std::vector<bool>& out) { return make(out); }, now);
  }
  /// A session of that plan is up.
  void adopt(const Replanner::Better& better) {
    replanner.adopt(better, now);
    replanner.opened();
  }
  std::vector<std::string> left_out() const {
    std::vector<std::string> names;
    for (const LeftOutMember& member : replanner.left_out()) names.push_back(member.name);
    return names;
  }

  Replanner replanner;
  std::vector<MemberReport> reports;
  Clock::time_point now;
  MemberId next_ = 0;
  size_t nodes_min = 1;   ///< With fewer, nothing fits.
  size_t nodes_max = 99;  ///< More get nothing to do.

 private:
  absl::StatusOr<Plan> make(const std::vector<bool>& out) const {
    Plan plan;
    for (size_t i = 0; i < out.size(); ++i) {
      if (!out[i] && plan.nodes.size() < nodes_max) plan.nodes.push_back({reports[i].name, ""});
    }
    if (plan.nodes.size() < nodes_min) return ResourceExhausted("node 'a' lacks 3 GiB");
    return plan;
  }
};

TEST(Replanner, WaitsForAMemberThatIsAwayThenDoesWithoutIt) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.go(1);
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  town.pass(seconds(14));
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  EXPECT_THAT(town.left_out(), ElementsAre());
  town.pass(seconds(1));
  const auto plan = town.plan();
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->notes, ElementsAre("without 'b': away, or not back for long enough"));
  EXPECT_THAT(town.left_out(), ElementsAre("b"));
}

TEST(Replanner, TheGraceRunsFromTheLastSignOfLife) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.reports[1].heard = town.now;
  town.pass(seconds(5));  // So long it took to find out.
  ++town.reports[1].losses;
  EXPECT_THAT(town.replanner.worth_waiting(town.reports, town.now),
              ElementsAre(Duration::max(), seconds(10), Duration::max()));
  town.go(1);
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  town.pass(seconds(9));
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  EXPECT_EQ(town.replanner.next_grace_end(town.now), Duration(seconds(1)));
  town.pass(seconds(1));
  EXPECT_EQ(town.nodes(), "ac");
  EXPECT_EQ(town.replanner.next_grace_end(town.now), std::nullopt);
  EXPECT_THAT(town.replanner.worth_waiting(town.reports, town.now),
              ElementsAre(Duration::max(), Duration::zero(), Duration::max()));
}

TEST(Replanner, AMemberIsAskedForAsLongAsItsAnswerIsWorthWaitingFor) {
  Town town(4);
  EXPECT_EQ(town.serve(), "abcd");
  town.go(1);
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  town.pass(seconds(15));
  EXPECT_EQ(town.serve(), "acd");  // Without 'b', which may be back all the same.
  ++town.reports[2].losses;
  town.reports[2].heard = town.now - seconds(5);
  const auto asked = [&](Duration latest) {
    std::vector<Duration> times;
    for (const Deadline until : town.replanner.ask_until(town.reports, town.now, {town.now + latest})) {
      times.push_back(until.at - town.now);
    }
    return times;
  };
  const Duration least = std::chrono::milliseconds(500);
  EXPECT_THAT(asked(seconds(60)), ElementsAre(seconds(60), least, seconds(10), seconds(60)));
  EXPECT_THAT(asked(seconds(2)), ElementsAre(seconds(2), least, seconds(2), seconds(2)));
  EXPECT_THAT(asked(Duration::zero()), Each(Duration::zero()));
}

TEST(Replanner, ASignOfLifeFromBeforeItWasSeenLastDoesNotShortenTheGrace) {
  Town town(3);
  town.pass(seconds(100));
  EXPECT_EQ(town.serve(), "abc");
  town.reports[1].heard = town.now - seconds(60);
  town.go(1);
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  town.pass(seconds(14));
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  town.pass(seconds(1));
  EXPECT_EQ(town.nodes(), "ac");
}

TEST(Replanner, WhereANodeIsWaitedForAsLongAsItTakesNoGraceEnds) {
  Town town(2, {.grace = std::nullopt});
  EXPECT_EQ(town.serve(), "ab");
  town.go(1);
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  EXPECT_EQ(town.replanner.next_grace_end(town.now), std::nullopt);
  EXPECT_THAT(town.replanner.worth_waiting(town.reports, town.now),
              ElementsAre(Duration::max(), Duration::max()));
}

TEST(Replanner, AShortAbsenceLeavesNobodyOut) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.go(1);
  town.plan().IgnoreError();
  town.pass(seconds(10));
  town.come_back(1);
  EXPECT_EQ(town.serve(), "abc");
  EXPECT_THAT(town.left_out(), ElementsAre());
}

TEST(Replanner, WithoutAGraceItWaitsForEver) {
  Town town(2, {.grace = std::nullopt});
  EXPECT_EQ(town.serve(), "ab");
  for (int i = 0; i < 10; ++i) {
    town.go(1);
    EXPECT_EQ(town.nodes(), "node 'b': connection refused");
    town.pass(minutes(10));
    town.come_back(1);
    EXPECT_EQ(town.serve(), "ab");
  }
}

TEST(Replanner, OneThatWasNeverThereIsDoneWithoutAsWell) {
  Town town(2);
  town.go(1);
  EXPECT_EQ(town.nodes(), "node 'b': connection refused");
  town.pass(seconds(15));
  EXPECT_EQ(town.serve(), "a");
}

TEST(Replanner, AMemberThatIsBackCountsAfterAWhile) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.lose(2);
  EXPECT_EQ(town.serve(), "ab");
  EXPECT_FALSE(town.better().has_value());
  town.come_back(2);
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(4));
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(1));
  const Clock::time_point since = town.now;
  ASSERT_TRUE(town.better().has_value());
  town.pass(seconds(3));
  const auto better = town.better();
  ASSERT_TRUE(better.has_value());
  EXPECT_EQ(better->since, since);
  EXPECT_THAT(better->why, HasSubstr("again with 'c'"));
  EXPECT_THAT(town.left_out(), ElementsAre("c"));  // Until the session is up.
  EXPECT_EQ(town.serve(), "abc");
  EXPECT_THAT(town.left_out(), ElementsAre());
}

TEST(Replanner, AGapWhileItIsOnProbationBeginsItAnewAndLonger) {
  Town town(2);
  EXPECT_EQ(town.serve(), "ab");
  town.lose(1);
  EXPECT_EQ(town.serve(), "a");
  town.come_back(1);
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(4));
  town.go(1);
  EXPECT_FALSE(town.better().has_value());
  town.come_back(1);
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(9));
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(1));
  EXPECT_TRUE(town.better().has_value());
}

TEST(Replanner, AFlappingMemberIsKeptOutForAGrowingTimeWithABound) {
  Town town(2);
  EXPECT_EQ(town.serve(), "ab");
  for (int i = 0; i < 2; ++i) {  // It is back at once, and waited for.
    town.crash(1);
    EXPECT_EQ(town.serve(), "ab");
  }
  std::vector<Duration> holds;
  for (int i = 0; i < 6; ++i) {
    town.crash(1);
    EXPECT_EQ(town.serve(), "a") << i;  // No wait: it went away too often.
    Duration hold{};
    while (!town.better().has_value()) {
      town.pass(seconds(1));
      hold += seconds(1);
    }
    holds.push_back(hold);
    EXPECT_EQ(town.serve(), "ab") << i;
  }
  EXPECT_THAT(holds,
              ElementsAre(seconds(20), seconds(40), seconds(80), seconds(160), seconds(300), seconds(300)));
  town.pass(minutes(31));  // All is forgotten.
  town.crash(1);
  EXPECT_EQ(town.serve(), "ab");
}

TEST(Replanner, AMemberThatNobodyCanDoWithoutCountsAtOnceHoweverOftenItWentAway) {
  Town town(2);
  town.nodes_min = 2;
  EXPECT_EQ(town.serve(), "ab");
  for (int i = 0; i < 5; ++i) {
    town.crash(1);
    EXPECT_EQ(town.serve(), "ab") << i;
  }
  town.go(1);
  EXPECT_THAT(town.nodes(), AllOf(HasSubstr("node 'b': connection refused"),
                                  HasSubstr("can't do without 'b': node 'a' lacks 3 GiB")));
  town.come_back(1);
  EXPECT_EQ(town.serve(), "ab");
}

TEST(Replanner, WhereNothingFitsTheErrorSaysSoAndTheReturnHealsIt) {
  Town town(3);
  town.nodes_min = 3;
  EXPECT_EQ(town.serve(), "abc");
  town.go(1);
  town.plan().IgnoreError();
  town.pass(minutes(1));
  const auto plan = town.plan();
  EXPECT_TRUE(absl::IsUnavailable(plan.status()));
  EXPECT_EQ(Message(plan.status()),
            "node 'b': connection refused. The other nodes can't do without 'b': node 'a' lacks 3 GiB");
  EXPECT_THAT(town.left_out(), ElementsAre());
  town.come_back(1);
  EXPECT_EQ(town.serve(), "abc");
}

TEST(Replanner, TwoMembersGoTogetherOrOneAfterTheOther) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.go(1);
  town.plan().IgnoreError();
  town.pass(seconds(10));
  town.go(2);
  EXPECT_THAT(town.nodes(), AllOf(HasSubstr("'b'"), HasSubstr("'c'")));
  town.pass(seconds(6));  // b alone would be done without; c is still waited for.
  EXPECT_THAT(town.nodes(), AllOf(HasSubstr("'b'"), HasSubstr("'c'")));
  town.pass(seconds(10));
  EXPECT_EQ(town.serve(), "a");
  town.come_back(2);
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(5));
  EXPECT_TRUE(town.better().has_value());
  EXPECT_EQ(town.serve(), "ac");
  EXPECT_THAT(town.left_out(), ElementsAre("b"));
}

TEST(Replanner, AMemberThatFailsWhenItIsTakenInAgainDoesNotStopTheOthers) {
  Town town(2);
  EXPECT_EQ(town.serve(), "ab");
  town.lose(1);
  EXPECT_EQ(town.serve(), "a");
  town.come_back(1);
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(5));
  ASSERT_TRUE(town.better().has_value());
  EXPECT_EQ(town.nodes(), "ab");  // No session comes of it:
  ++town.reports[1].failures;
  EXPECT_EQ(town.serve(), "a");
  town.pass(seconds(9));
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(1));
  EXPECT_TRUE(town.better().has_value());
}

TEST(Replanner, AMemberThatIsNotNeededEndsNoSession) {
  Town town(2);
  town.nodes_max = 1;
  town.lose(1);
  EXPECT_EQ(town.serve(), "a");
  town.come_back(1);
  EXPECT_FALSE(town.better().has_value());
  town.pass(seconds(5));
  EXPECT_FALSE(town.better().has_value());
  EXPECT_THAT(town.left_out(), ElementsAre());
}

TEST(Replanner, OneThatJoinsIsTakenInAtOnceAndNamed) {
  Town town(1);
  EXPECT_EQ(town.serve(), "a");
  EXPECT_FALSE(town.better().has_value());
  town.move_in();
  const auto better = town.better();
  ASSERT_TRUE(better.has_value());
  EXPECT_THAT(better->why, HasSubstr("with 'b'"));
  EXPECT_FALSE(better->at_once);
  EXPECT_EQ(town.serve(), "ab");
  EXPECT_FALSE(town.better().has_value());
}

TEST(Replanner, OneThatJoinedAndIsAwayIsWaitedForByNoSessionThatIsUp) {
  Town town(1);
  EXPECT_EQ(town.serve(), "a");
  town.move_in();
  town.go(1);
  EXPECT_FALSE(town.better().has_value());
  town.come_back(1);
  EXPECT_TRUE(town.better().has_value());
}

TEST(Replanner, OneThatLeavesIsPlannedAroundWithoutAGrace) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.move_out(1);
  const auto better = town.better();
  ASSERT_TRUE(better.has_value());
  EXPECT_THAT(better->why, HasSubstr("without 'b', which left"));
  EXPECT_TRUE(better->at_once);
  EXPECT_EQ(town.serve(), "ac");
  EXPECT_THAT(town.left_out(), ElementsAre());
}

TEST(Replanner, ASessionWhoseMemberLeftGoesOnWhereTheOthersHaveNoRoom) {
  Town town(2);
  town.nodes_min = 2;
  EXPECT_EQ(town.serve(), "ab");
  town.move_out(1);
  EXPECT_FALSE(town.better().has_value());
  EXPECT_EQ(town.nodes(), "node 'a' lacks 3 GiB");  // It has ended: the reason is told without a grace.
  town.move_in();
  EXPECT_EQ(town.serve(), "ac");
}

TEST(Replanner, OneThatComesBackUnderAnotherIdHasNoPast) {
  Town town(2);
  EXPECT_EQ(town.serve(), "ab");
  for (int i = 0; i < 3; ++i) {
    town.crash(1);
    town.plan().IgnoreError();
  }
  EXPECT_EQ(town.serve(), "a");
  town.move_out(1);
  town.move_in();
  EXPECT_TRUE(town.better().has_value());
  EXPECT_EQ(town.serve(), "ac");
}

TEST(Replanner, OneThatASessionWentOnWithoutIsTakenInAgainThoughThePlanIsTheSame) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  EXPECT_FALSE(town.better().has_value());
  town.crash(2);
  town.go(2);
  EXPECT_FALSE(town.better().has_value());
  EXPECT_THAT(town.left_out(), ElementsAre("c"));
  EXPECT_TRUE(town.replanner.counts_on(1));
  EXPECT_FALSE(town.replanner.counts_on(2));
  town.pass(minutes(1));
  EXPECT_FALSE(town.better().has_value());
  town.come_back(2);
  EXPECT_FALSE(town.better().has_value());  // Not for long enough.
  town.pass(seconds(5));
  ASSERT_TRUE(town.better().has_value());
  EXPECT_THAT(town.better()->why, HasSubstr("'c'"));
  EXPECT_EQ(town.serve(), "abc");
  EXPECT_THAT(town.left_out(), ElementsAre());
  EXPECT_FALSE(town.better().has_value());
}

TEST(Replanner, AfterAFurtherLossPlansAreMadeWithoutTheOneThatTheSessionHadSurvived) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.crash(2);
  town.go(2);
  EXPECT_FALSE(town.better().has_value());
  town.crash(1);
  EXPECT_EQ(town.serve(), "ab");
}

TEST(Replanner, ADrainedMemberIsDoneWithoutAtOnceAndTakenInAtOnce) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.replanner.drain(1, true);
  const auto without = town.better();
  ASSERT_TRUE(without.has_value());
  EXPECT_THAT(without->why, HasSubstr("without 'b', drained"));
  EXPECT_TRUE(without->ordered);
  EXPECT_FALSE(without->in.contains(1));
  EXPECT_THAT(town.left_out(), ElementsAre());  // Not before that is in force.
  town.adopt(*without);
  EXPECT_THAT(town.left_out(), ElementsAre("b"));
  EXPECT_TRUE(town.replanner.left_out()[0].drained);
  EXPECT_FALSE(town.better().has_value());
  town.pass(minutes(10));
  EXPECT_FALSE(town.better().has_value());
  EXPECT_EQ(town.serve(), "ac");  // As after a loss of another.

  town.replanner.drain(1, false);
  const auto with = town.better();
  ASSERT_TRUE(with.has_value());
  EXPECT_TRUE(with->ordered);
  town.adopt(*with);
  EXPECT_THAT(town.left_out(), ElementsAre());
  EXPECT_FALSE(town.better().has_value());
}

TEST(Replanner, AnotherPlanOfTheSameMembersIsNotPutOffAndAskedForOnce) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.nodes_max = 2;  // Another plan could be made, which nobody asked for.
  EXPECT_FALSE(town.better().has_value());
  town.replanner.reorder();
  const auto other = town.better();
  ASSERT_TRUE(other.has_value());
  EXPECT_THAT(other->why, HasSubstr("as it was asked for"));
  EXPECT_TRUE(other->ordered);
  ASSERT_TRUE(town.better().has_value());  // Until it is in force.
  town.adopt(*other);
  EXPECT_FALSE(town.better().has_value());
  town.replanner.reorder();
  EXPECT_FALSE(town.better().has_value());  // It is the same.
}

TEST(Replanner, AnOrderThatComesWhileNodesLoadForAnotherIsNotForgotten) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.nodes_max = 2;
  town.replanner.reorder();
  const auto first = town.better();
  ASSERT_TRUE(first.has_value());
  town.nodes_max = 1;
  town.replanner.reorder();
  town.adopt(*first);
  const auto second = town.better();
  ASSERT_TRUE(second.has_value());
  EXPECT_TRUE(second->ordered);
  EXPECT_GT(second->orders, first->orders);
  town.adopt(*second);
  EXPECT_FALSE(town.better().has_value());
}

TEST(Replanner, ADrainedMemberMayGoAndIsNeitherWaitedForNorMissed) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.replanner.drain(1, true);
  town.adopt(*town.better());
  town.go(1);
  EXPECT_FALSE(town.better().has_value());
  EXPECT_EQ(town.serve(), "ac");
  town.replanner.drain(1, false);
  EXPECT_FALSE(town.better().has_value());  // It is away.
  town.come_back(1);
  town.better();
  town.pass(seconds(10));
  EXPECT_TRUE(town.better().has_value());
}

TEST(Replanner, ADrainedMemberThatTheOthersCannotDoWithoutIsNamed) {
  Town town(3);
  EXPECT_EQ(town.serve(), "abc");
  town.replanner.drain(1, true);
  town.nodes_min = 2;
  town.lose(2);
  EXPECT_THAT(town.nodes(),
              AllOf(HasSubstr("node 'b' is drained"), HasSubstr("can't do without 'b' and 'c'")));
  town.replanner.drain(1, false);
  EXPECT_EQ(town.nodes(), "ab");
}

}  // namespace
}  // namespace shoal
