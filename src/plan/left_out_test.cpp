#include "plan/left_out.h"

#include <gmock/gmock.h>

#include "plan/plan_test_models.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<NodeFacts> kThree = Nodes({0, 0, 0}, {1, 1, 1});

std::string ErrorOf(const PlanRequest& request, const std::vector<bool>& out) {
  const auto left = WithoutNodes(kThree, request, out, ReplanAs::kAsked);
  return left.ok() ? "OK" : ToString(left.status());
}

TEST(WithoutNodes, NobodyOutChangesNothing) {
  const PlanRequest request{.strategy = LayerStrategy::kSplit, .split = {2, 2, 2}};
  const auto left = WithoutNodes(kThree, request, {false, false, false}, ReplanAs::kBalanced);
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(left->nodes.size(), 3u);
  EXPECT_EQ(left->request.strategy, LayerStrategy::kSplit);
  EXPECT_THAT(left->request.split, ElementsAre(2, 2, 2));
}

TEST(WithoutNodes, ASplitHoldsForNodesThatItGivesNothing) {
  const PlanRequest request{.strategy = LayerStrategy::kSplit, .split = {2, 0, 4}};
  const auto left = WithoutNodes(kThree, request, {false, true, false}, ReplanAs::kAsked);
  ASSERT_TRUE(left.ok()) << ToString(left.status());
  EXPECT_THAT(left->request.split, ElementsAre(2, 4));
  EXPECT_EQ(left->nodes[1].name, "n2");
  EXPECT_THAT(ErrorOf(request, {false, false, true}),
              AllOf(HasSubstr("split 2,0,4 gives node 'n2' 4 layers"), HasSubstr("--replan-as balanced")));
}

TEST(WithoutNodes, ASplitIsBalancedWhereTheFlagSaysSo) {
  const PlanRequest request{.strategy = LayerStrategy::kSplit, .split = {2, 2, 2}};
  const auto left = WithoutNodes(kThree, request, {false, true, true}, ReplanAs::kBalanced);
  ASSERT_TRUE(left.ok()) << ToString(left.status());
  const auto plan = MakePlan(DenseModel(6), left->nodes, left->request);
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_EQ(plan->layers_of(NodeId{0}), (Range{0, 6}));
}

TEST(WithoutNodes, ProportionsOfTheOthersStay) {
  const PlanRequest request{.strategy = LayerStrategy::kCustom, .proportions = {0.5, 0.3, 0.2}};
  const auto left = WithoutNodes(kThree, request, {false, true, false}, ReplanAs::kAsked);
  ASSERT_TRUE(left.ok()) << ToString(left.status());
  EXPECT_THAT(left->request.proportions, ElementsAre(DoubleEq(0.5 / 0.7), DoubleEq(0.2 / 0.7)));
  EXPECT_TRUE(MakePlan(DenseModel(7), left->nodes, left->request).ok());
  const PlanRequest all_away{.strategy = LayerStrategy::kCustom, .proportions = {0, 0.5, 0.5}};
  EXPECT_THAT(ErrorOf(all_away, {false, true, true}), HasSubstr("all layers to nodes that are away"));
}

TEST(WithoutNodes, ExpertsGoOverAsManyNodesAsAreLeft) {
  const PlanRequest request{
      .experts = {.strategy = ExpertStrategy::kRoundRobin, .over_nodes = 3, .replicas = 2}};
  const auto left = WithoutNodes(kThree, request, {false, false, true}, ReplanAs::kAsked);
  ASSERT_TRUE(left.ok()) << ToString(left.status());
  EXPECT_EQ(left->request.experts.over_nodes, 2);
  EXPECT_EQ(left->request.experts.replicas, 1);
  EXPECT_TRUE(MakePlan(MoeModel(6, 8), left->nodes, left->request).ok());
}

TEST(WithoutNodes, ListedExpertsNeedAnotherNodeThatListsThem) {
  PlanRequest request{
      .experts = {.strategy = ExpertStrategy::kExplicit, .lists = {{0, 1, 2, 3}, {4, 5}, {4, 5, 6, 7}}}};
  const auto left = WithoutNodes(kThree, request, {false, true, false}, ReplanAs::kAsked);
  ASSERT_TRUE(left.ok()) << ToString(left.status());
  EXPECT_TRUE(MakePlan(MoeModel(6, 8), left->nodes, left->request).ok());
  EXPECT_THAT(ErrorOf(request, {false, false, true}), HasSubstr("only node 'n2' is to hold expert 6"));
  const auto balanced = WithoutNodes(kThree, request, {false, false, true}, ReplanAs::kBalanced);
  ASSERT_TRUE(balanced.ok()) << ToString(balanced.status());
  EXPECT_TRUE(MakePlan(MoeModel(6, 8), balanced->nodes, balanced->request).ok());
}

}  // namespace
}  // namespace shoal
