#include "plan/fastest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.h"
#include "plan/compare.h"
#include "plan/plan_test_models.h"

namespace shoal {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct Cluster {
  ModelFacts model;
  std::vector<NodeFacts> nodes;
  PlanRequest request;
};

/// Layers, experts, rates, memory, links and the objective by chance.
Cluster AnyCluster(RandomStream& random) {
  const auto between = [&](double low, double high) { return low * std::pow(high / low, random.uniform()); };
  const auto layers = 1 + static_cast<int>(random.below(6));
  Cluster cluster;
  cluster.model = random.below(2) == 0 ? DenseModel(layers) : MoeModel(layers, 8);
  for (LayerFacts& layer : cluster.model.layers) {
    layer.bytes = static_cast<int64_t>(between(1, 30) * kMiB);
    layer.int8_multiplies = 2 * layer.bytes;
    layer.expert_multiplies = 2 * layer.expert_bytes;
    layer.attention_multiplies = 4096;
  }
  const size_t count = 1 + random.below(4);
  cluster.nodes = Nodes(std::vector<int64_t>(count, 0));
  for (NodeFacts& node : cluster.nodes) {
    node.rates = ThreadRates{.threads = 1,
                             .read_gbs = between(2, 50),
                             .int8_gops = between(20, 1000),
                             .f32_gflops = between(10, 200),
                             .wake_us = 1};
    if (random.below(3) == 0) node.memory_bytes = static_cast<int64_t>(between(20, 300) * kMiB);
    node.may_hold_layers = random.below(6) != 0;
  }
  for (size_t a = 0; a < count; ++a) {
    for (size_t b = a + 1; b < count; ++b) {
      cluster.request.links.push_back(
          {cluster.nodes[a].name, cluster.nodes[b].name, between(50, 10000), between(1, 1000)});
    }
  }
  cluster.request.strategy = LayerStrategy::kFastest;
  cluster.request.experts.asked = true;
  cluster.request.node_use = random.below(2) == 0 ? NodeUse::kAll : NodeUse::kBest;
  return cluster;
}

/// Calls `visit` with every way to give layers to the nodes.
void ForEachSplit(size_t nodes, int64_t layers, std::vector<int64_t>& counts,
                  const std::function<void(const std::vector<int64_t>&)>& visit) {
  if (counts.size() + 1 == nodes) {
    counts.push_back(layers);
    visit(counts);
    counts.pop_back();
    return;
  }
  for (int64_t n = 0; n <= layers; ++n) {
    counts.push_back(n);
    ForEachSplit(nodes, layers - n, counts, visit);
    counts.pop_back();
  }
}

struct BruteForce {
  std::optional<double> all;   ///< Best value of splits that give every node something.
  std::optional<double> best;  ///< Of all splits.
};

BruteForce TryAll(const Cluster& cluster) {
  BruteForce found;
  std::vector<int64_t> counts;
  ForEachSplit(cluster.nodes.size(), std::ssize(cluster.model.layers), counts,
               [&](const std::vector<int64_t>& split) {
                 PlanRequest request = cluster.request;
                 request.strategy = LayerStrategy::kSplit;
                 request.split = split;
                 const auto plan = MakePlan(cluster.model, cluster.nodes, request);
                 if (!plan.ok()) return;
                 const auto machines = Machines::Of(*plan, cluster.nodes, request.links);
                 const double value = ValueOf(Predictor(*plan, cluster.model, *machines), request.objective);
                 bool all = true;
                 for (size_t i = 0; i < split.size(); ++i)
                   all &= split[i] > 0 || !cluster.nodes[i].may_hold_layers;
                 const auto keep = [value](std::optional<double>& best) {
                   best = std::max(best.value_or(value), value);
                 };
                 keep(found.best);
                 if (all) keep(found.all);
               });
  return found;
}

double ValueOfPlan(const Cluster& cluster, const Plan& plan) {
  const auto machines = Machines::Of(plan, cluster.nodes, cluster.request.links);
  EXPECT_TRUE(machines.ok()) << ToString(machines.status());
  return ValueOf(Predictor(plan, cluster.model, *machines), cluster.request.objective);
}

TEST(Fastest, IsTheBestOfAllSplitsOfSmallClusters) {
  RandomStream random(7);
  RandomStream states(8);
  int planned = 0;
  for (int i = 0; i < 400; ++i) {
    Cluster cluster = AnyCluster(random);
    cluster.request.objective = i % 2 == 0 ? Objective::kLatency : Objective::kThroughput;
    // Spread experts in every third.
    if (i % 3 == 0) cluster.request.experts.strategy = ExpertStrategy::kRoundRobin;
    // States of some, which take the more memory the more stages there are.
    if (states.below(2) == 0) {
      cluster.request.sequences = 1 + static_cast<int64_t>(states.below(4));
      for (LayerFacts& layer : cluster.model.layers)
        layer.state_bytes = static_cast<int64_t>(states.below(8)) * kMiB;
    }
    const BruteForce expected = TryAll(cluster);
    const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
    ASSERT_EQ(plan.ok(), expected.best.has_value()) << i << ": " << ToString(plan.status());
    if (!plan.ok()) continue;
    ++planned;
    const bool all = cluster.request.node_use == NodeUse::kAll && expected.all.has_value();
    const double best = all ? *expected.all : *expected.best;
    EXPECT_NEAR(ValueOfPlan(cluster, *plan) / best, 1, 1e-6) << i;
  }
  EXPECT_GT(planned, 200);
}

TEST(Fastest, ComesCloseToTheBestTimeToTheFirstToken) {
  RandomStream random(8);
  for (int i = 0; i < 60; ++i) {
    Cluster cluster = AnyCluster(random);
    cluster.request.objective = Objective::kTtft;
    cluster.request.node_use = NodeUse::kBest;
    const BruteForce expected = TryAll(cluster);
    if (!expected.best.has_value()) continue;
    const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
    ASSERT_TRUE(plan.ok()) << ToString(plan.status());
    // The search takes all chunks of a prompt for alike.
    EXPECT_LT(ValueOfPlan(cluster, *plan) / *expected.best, 1.05) << i;
  }
}

/// Dense nodes with these rates of reading, all links alike.
Cluster Readers(const std::vector<double>& read_gbs, int layers, double rtt_us) {
  Cluster cluster{DenseModel(layers), Nodes(std::vector<int64_t>(read_gbs.size(), 0)), {}};
  for (size_t i = 0; i < read_gbs.size(); ++i) {
    cluster.nodes[i].rates = ThreadRates{1, read_gbs[i], 1000 * read_gbs[i], 100, 1};
    for (size_t b = i + 1; b < read_gbs.size(); ++b) {
      cluster.request.links.push_back({cluster.nodes[i].name, cluster.nodes[b].name, rtt_us, 100});
    }
  }
  for (LayerFacts& layer : cluster.model.layers) layer.int8_multiplies = 2 * layer.bytes;
  cluster.request.strategy = LayerStrategy::kFastest;
  return cluster;
}

std::vector<int64_t> Layers(const Plan& plan) {
  std::vector<int64_t> counts;
  for (const PlanStage& stage : plan.stages) counts.push_back(stage.layers.size());
  return counts;
}

TEST(Fastest, GivesEveryNodeThatWasAskedForALayer) {
  Cluster cluster = Readers({100, 1, 1}, 10, 100);
  cluster.request.objective = Objective::kLatency;
  const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(Layers(*plan), ElementsAre(8, 1, 1));
  EXPECT_THAT(plan->notes, Contains(HasSubstr("one machine is faster for one stream: 'n0' alone")));
  cluster.request.node_use = NodeUse::kBest;
  const auto best = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(best.ok());
  EXPECT_THAT(Layers(*best), ElementsAre(10));
  EXPECT_THAT(best->notes, Contains(HasSubstr("node 'n1' is dropped")));
  EXPECT_THAT(best->notes, Contains(StartsWith("layers (fastest): 10")));
}

TEST(Fastest, LeavesNodesOutWhereThereAreFewerLayers) {
  const Cluster cluster = Readers({10, 10, 10, 10}, 2, 100);
  const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_LE(plan->stages.size(), 2);
}

TEST(Fastest, EqualNodesGetEqualParts) {
  const Cluster cluster = Readers({10, 10}, 12, 100);
  const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(plan.ok());
  // The last has the head, too.
  EXPECT_THAT(Layers(*plan), AnyOf(ElementsAre(6, 6), ElementsAre(7, 5)));
}

TEST(Fastest, SaysThatReplicasServeMore) {
  Cluster cluster = Readers({10, 10}, 12, 3000);
  const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->notes, Contains(HasSubstr("two replicas serve more")));
  for (NodeFacts& node : cluster.nodes) node.memory_bytes = 100 * kMiB;  // Of 130.
  const auto small = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(small.ok());
  EXPECT_THAT(small->notes, Each(Not(HasSubstr("replicas serve more"))));
  EXPECT_THAT(small->notes, Each(Not(HasSubstr("one machine"))));
}

TEST(Fastest, SpreadsExpertsOnlyWhereThatIsBetter) {
  Cluster cluster = Readers({10, 10}, 4, 20);
  cluster.model = MoeModel(4, 64);
  cluster.model.top_k = 32;
  cluster.request.coordinator_holds_layers = true;
  cluster.nodes[1].may_hold_layers = false;
  const auto near = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(near.ok());
  EXPECT_FALSE(near->remote_owners(LayerId{1}).empty());
  for (LinkFacts& link : cluster.request.links) link.rtt_us = 50000;
  const auto far = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(far.ok());
  EXPECT_TRUE(far->remote_owners(LayerId{1}).empty());
}

TEST(Fastest, IsBalancedAsLongAsANodeIsNotMeasured) {
  Cluster cluster = Readers({100, 1}, 10, 100);
  cluster.nodes[1].rates.reset();
  const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
  cluster.request.strategy = LayerStrategy::kBalanced;
  EXPECT_EQ(*plan, *MakePlan(cluster.model, cluster.nodes, cluster.request));
}

TEST(Fastest, TooLittleMemoryIsTheErrorOfBalanced) {
  Cluster cluster = Readers({10, 10}, 12, 100);
  for (NodeFacts& node : cluster.nodes) node.memory_bytes = 50 * kMiB;
  const auto fastest = MakePlan(cluster.model, cluster.nodes, cluster.request);
  EXPECT_EQ(fastest.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(fastest.status()), HasSubstr("lacks"));
}

TEST(Fastest, SixtyFourNodesAndAHundredLayersArePlanned) {
  std::vector<double> rates;
  for (int i = 0; i < 64; ++i) rates.push_back(5 + i % 7);
  for (const NodeUse use : {NodeUse::kAll, NodeUse::kBest}) {
    Cluster cluster = Readers(rates, 100, 200);
    cluster.request.node_use = use;
    const auto plan = MakePlan(cluster.model, cluster.nodes, cluster.request);
    ASSERT_TRUE(plan.ok()) << ToString(plan.status());
    if (use == NodeUse::kAll) {
      EXPECT_EQ(plan->stages.size(), 64);
    }
    EXPECT_THAT(Layers(*plan), Each(Gt(0)));
  }
}

TEST(Compare, TellsWhatEveryStrategyComesTo) {
  Cluster cluster = Readers({10, 20}, 12, 100);
  for (NodeFacts& node : cluster.nodes) node.memory_bytes = int64_t{2} << 30;
  const auto chosen = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(chosen.ok());
  const Comparison comparison = CompareStrategies(cluster.model, cluster.nodes, cluster.request, *chosen);
  EXPECT_EQ(comparison.not_predicted, "");
  EXPECT_FALSE(comparison.links_assumed);
  int marked = 0;
  for (const ComparedPlan& plan : comparison.plans) {
    marked += plan.chosen ? 1 : 0;
    ASSERT_TRUE(plan.predicted.has_value()) << plan.name << plan.error;
    EXPECT_GT(plan.predicted->tokens_per_s_1, 0);
    EXPECT_GT(plan.predicted->ttft_16k_s, plan.predicted->ttft_2k_s);
    EXPECT_GT(plan.sequences_2k.value(), 1);
  }
  EXPECT_EQ(marked, 1);
  const std::string text = ComparisonText(comparison);
  for (const char* word :
       {"fastest (throughput)", "fastest (latency)", "uniform", "'n0' alone", "'n1' alone"}) {
    EXPECT_THAT(text, HasSubstr(word));
  }
  EXPECT_THAT(PlanReportJson(*chosen, cluster.model, {.positions = 100}, comparison),
              HasSubstr("\"tokens_per_s_16\""));
}

TEST(Compare, WithoutRatesThereIsMemoryAndTrafficAlone) {
  Cluster cluster = Readers({10, 20}, 12, 100);
  cluster.nodes[1].rates.reset();
  cluster.request.strategy = LayerStrategy::kSplit;
  cluster.request.split = {1, 11};
  const auto chosen = MakePlan(cluster.model, cluster.nodes, cluster.request);
  ASSERT_TRUE(chosen.ok());
  const Comparison comparison = CompareStrategies(cluster.model, cluster.nodes, cluster.request, *chosen);
  EXPECT_THAT(comparison.not_predicted, HasSubstr("node 'n1'"));
  ASSERT_FALSE(comparison.plans.empty());
  EXPECT_EQ(comparison.plans[0].name, "as asked");
  EXPECT_FALSE(comparison.plans[0].predicted.has_value());
  EXPECT_EQ(comparison.plans[0].per_token.messages(), 2);
}

}  // namespace
}  // namespace shoal
