#include "cluster/event_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace shoal {
namespace {

ClusterSnapshot UpView() {
  return {.nodes = {{.name = "a", .state = MemberState::kUp}, {.name = "b", .state = MemberState::kUp}},
          .up = true,
          .generation = 1,
          .placement = "a [0, 3), b [3, 6)"};
}

std::vector<std::string> KindsOf(const std::vector<ClusterEvent>& events) {
  std::vector<std::string> kinds;
  for (const ClusterEvent& event : events)
    kinds.push_back(event.node.empty() ? event.kind : event.node + " " + event.kind);
  return kinds;
}

TEST(EventsBetween, NothingHappensBetweenEqualViews) {
  EXPECT_TRUE(EventsBetween(UpView(), UpView()).empty());
}

TEST(EventsBetween, ALostNodeIsNamedBeforeTheSessionThatEndsByIt) {
  ClusterSnapshot lost = UpView();
  lost.nodes[1].state = MemberState::kLost;
  lost.nodes[1].error = "no answer";
  lost.up = false;
  lost.why_down = "node 'b': no answer";
  const auto events = EventsBetween(UpView(), lost);
  EXPECT_THAT(KindsOf(events), testing::ElementsAre("b lost", "down"));
  EXPECT_THAT(events[0].text, testing::HasSubstr("no answer"));
}

TEST(EventsBetween, APlanWithoutANodeSaysWhoIsOutAndWhatTheOthersGot) {
  ClusterSnapshot without = UpView();
  without.nodes[1].out = true;
  without.nodes[1].why_out = "it was lost";
  without.generation = 2;
  without.placement = "a [0, 6)";
  EXPECT_THAT(KindsOf(EventsBetween(UpView(), without)),
              testing::ElementsAre("b out", "down", "plan", "session"));
  EXPECT_THAT(KindsOf(EventsBetween(without, UpView())),
              testing::ElementsAre("b back", "down", "plan", "session"));
}

TEST(EventsBetween, AnOutageIsCriticalAndASessionThatEndsForAnotherIsNot) {
  ClusterSnapshot down = UpView();
  down.nodes[1].state = MemberState::kLost;
  down.up = false;
  const auto outage = EventsBetween(UpView(), down);
  ASSERT_THAT(KindsOf(outage), testing::ElementsAre("b lost", "down"));
  EXPECT_EQ(outage[0].weight, EventWeight::kWarning);
  EXPECT_EQ(outage[1].weight, EventWeight::kCritical);
  ClusterSnapshot rebuilt = UpView();
  rebuilt.generation = 2;
  for (const ClusterEvent& event : EventsBetween(UpView(), rebuilt))
    EXPECT_EQ(event.weight, EventWeight::kInfo) << event.kind;
  ClusterSnapshot loading = UpView();
  loading.nodes[1].state = MemberState::kLoading;
  EXPECT_EQ(EventsBetween(UpView(), loading).at(0).weight, EventWeight::kDetail);
}

TEST(EventsBetween, MembersComeAndGo) {
  ClusterSnapshot more = UpView();
  more.nodes.push_back({.name = "c"});
  EXPECT_THAT(KindsOf(EventsBetween(UpView(), more)), testing::ElementsAre("c seen"));
  EXPECT_THAT(KindsOf(EventsBetween(more, UpView())), testing::ElementsAre("c gone"));
}

TEST(EventLog, KeepsTheLastAndTellsThoseAfterAnId) {
  EventLog log;
  EXPECT_EQ(log.last(), 0);
  for (size_t i = 0; i < EventLog::kEventsMax + 10; ++i) log.add({{.kind = "up"}}, 7);
  EXPECT_EQ(log.last(), static_cast<int64_t>(EventLog::kEventsMax) + 10);
  EXPECT_EQ(log.since(0).size(), EventLog::kEventsMax);
  EXPECT_EQ(log.since(0).front().id, 11);
  const auto two = log.since(log.last() - 2);
  ASSERT_EQ(two.size(), 2U);
  EXPECT_EQ(two.back().id, log.last());
  EXPECT_TRUE(log.since(log.last()).empty());
}

}  // namespace
}  // namespace shoal
