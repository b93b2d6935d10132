#include "plan/kv_buddies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

/// One stage for each node whose layers are not 0, at these addresses.
Plan PlanOf(const std::vector<std::pair<std::string, int64_t>>& nodes) {
  Plan plan;
  int64_t layer = 0;
  for (const auto& [address, layers] : nodes) {
    const NodeId id{static_cast<int32_t>(plan.nodes.size())};
    plan.nodes.push_back({"n" + std::to_string(id.value), address});
    if (layers > 0) plan.stages.push_back({id, {layer, layer + layers}});
    layer += layers;
  }
  return plan;
}

KvBuddy Pair(int32_t of, int32_t keeper, int64_t bytes) { return {NodeId{of}, NodeId{keeper}, bytes}; }

TEST(KvBuddies, TheCoordinatorNeedsNoneButIsOne) {
  const Plan plan = PlanOf({{"a:1", 2}, {"b:1", 2}});
  EXPECT_THAT(ChooseBuddies(plan, std::vector<BuddyFacts>{{50, 500}, {60, 500}}, kNoLimit),
              ElementsAre(Pair(1, 0, 60)));
}

TEST(KvBuddies, AnotherMachineIsBetterThanMoreMemoryOnThisOne) {
  const Plan plan = PlanOf({{"a:1", 0}, {"b:1", 2}, {"b:2", 2}});
  EXPECT_THAT(ChooseBuddies(plan, std::vector<BuddyFacts>{{0, 30}, {60, 500}, {60, 0}}, kNoLimit),
              ElementsAre(Pair(1, 0, 30), Pair(2, 1, 60)));
}

TEST(KvBuddies, OneWithoutLayersComesBeforeOneThatWouldTakeItsLayersWithIt) {
  const Plan plan = PlanOf({{"a:1", 2}, {"b:1", 2}, {"c:1", 0}});
  EXPECT_THAT(ChooseBuddies(plan, std::vector<BuddyFacts>{{60, 500}, {60, 500}, {0, 500}}, kNoLimit),
              ElementsAre(Pair(1, 2, 60)));
}

TEST(KvBuddies, NobodyIsGivenMoreThanItSparesNorMoreThanWasAskedFor) {
  const Plan plan = PlanOf({{"a:1", 0}, {"b:1", 2}, {"c:1", 2}, {"d:1", 2}});
  EXPECT_THAT(ChooseBuddies(plan, std::vector<BuddyFacts>{{0, 70}, {60, 0}, {60, 0}, {60, 0}}, 50),
              ElementsAre(Pair(1, 0, 50), Pair(2, 0, 20)));
}

TEST(KvBuddies, WithoutMemoryToSpareThereAreNone) {
  const Plan plan = PlanOf({{"a:1", 0}, {"b:1", 2}});
  EXPECT_THAT(ChooseBuddies(plan, std::vector<BuddyFacts>{{0, 0}, {60, 500}}, kNoLimit), IsEmpty());
}

}  // namespace
}  // namespace shoal
