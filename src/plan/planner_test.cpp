#include "plan/planner.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "plan/cost.h"
#include "plan/layer_split.h"
#include "plan/plan_test_models.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// Layers per node of the facts, by name; dropped nodes count as 0.
std::vector<int64_t> Counts(const Plan& plan, const std::vector<NodeFacts>& nodes) {
  std::vector<int64_t> counts;
  for (const NodeFacts& node : nodes) {
    const auto id = plan.find_node(node.name);
    counts.push_back(id ? plan.layers_of(*id).size() : 0);
  }
  return counts;
}

std::vector<int64_t> CountsOf(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                              const PlanRequest& request) {
  const auto plan = MakePlan(model, nodes, request);
  EXPECT_TRUE(plan.ok()) << ToString(plan.status());
  return plan.ok() ? Counts(*plan, nodes) : std::vector<int64_t>{};
}

std::string ErrorOf(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                    const PlanRequest& request) {
  const auto plan = MakePlan(model, nodes, request);
  return plan.ok() ? "OK" : ToString(plan.status());
}

TEST(Apportion, GivesTheRestToTheLargestRemainders) {
  EXPECT_THAT(Apportion(7, {1, 1, 1}), ElementsAre(3, 2, 2));
  EXPECT_THAT(Apportion(10, {0.7, 0.3}), ElementsAre(7, 3));
  EXPECT_THAT(Apportion(12, {900, 100}), ElementsAre(11, 1));
  EXPECT_THAT(Apportion(28, {16, 8}), ElementsAre(19, 9));
  EXPECT_THAT(Apportion(2, {1, 1, 1, 1}), ElementsAre(1, 1, 0, 0));
  EXPECT_THAT(Apportion(5, {0, 1, 0}), ElementsAre(0, 5, 0));
  EXPECT_THAT(Apportion(48, {1e-6, 1e12, 1e12}), ElementsAre(0, 24, 24));
}

struct PlacementCase {
  const char* name;
  LayerStrategy strategy;
  int layers;
  std::vector<int64_t> memory_mib;
  std::vector<double> compute;
  std::vector<int64_t> expected;
};

class Placement : public ::testing::TestWithParam<PlacementCase> {};

TEST_P(Placement, DividesLayersAsInTheTable) {
  const PlacementCase& c = GetParam();
  std::vector<int64_t> memory;
  for (const int64_t mib : c.memory_mib) memory.push_back(mib * kMiB);
  EXPECT_EQ(CountsOf(DenseModel(c.layers), Nodes(memory, c.compute), {.strategy = c.strategy}), c.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Table, Placement,
    ::testing::Values(
        PlacementCase{"one_node", LayerStrategy::kUniform, 7, {0}, {}, {7}},
        PlacementCase{"prime_over_three", LayerStrategy::kUniform, 7, {0, 0, 0}, {}, {3, 2, 2}},
        PlacementCase{"more_nodes_than_layers", LayerStrategy::kUniform, 2, {0, 0, 0, 0}, {}, {1, 1, 0, 0}},
        PlacementCase{"uniform_ignores_memory", LayerStrategy::kUniform, 8, {1000, 100}, {}, {4, 4}},
        PlacementCase{"two_to_one", LayerStrategy::kMemory, 28, {16000, 8000}, {}, {19, 9}},
        PlacementCase{"nine_to_one", LayerStrategy::kMemory, 12, {9000, 1000}, {}, {11, 1}},
        PlacementCase{"three_even", LayerStrategy::kMemory, 12, {900, 900, 900}, {}, {4, 4, 4}},
        PlacementCase{"tiny_node_gets_none", LayerStrategy::kMemory, 12, {9000, 9000, 10}, {}, {6, 6, 0}},
        PlacementCase{"compute_ignores_memory", LayerStrategy::kCompute, 12, {0, 0}, {10, 20}, {4, 8}},
        // 13 layers x 10 and a head of 6 over 40 units of compute: 136 / 40 = 3.4 per unit at best.
        PlacementCase{"balanced_by_compute", LayerStrategy::kBalanced, 13, {0, 0}, {30, 10}, {10, 3}},
        PlacementCase{
            "balanced_counts_the_head", LayerStrategy::kBalanced, 4, {0, 0, 0}, {1, 1, 1}, {2, 1, 1}},
        // The fast node has room for 3 layers (34 MiB with the embedding), the slow one takes the rest.
        PlacementCase{"balanced_within_memory", LayerStrategy::kBalanced, 8, {35, 500}, {100, 1}, {3, 5}},
        PlacementCase{"balanced_without_compute", LayerStrategy::kBalanced, 8, {500, 500}, {}, {4, 4}},
        PlacementCase{
            "balanced_skips_a_full_node", LayerStrategy::kBalanced, 6, {500, 5, 500}, {}, {3, 0, 3}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Planner, CustomProportionsAreRoundedByLargestRemainders) {
  EXPECT_THAT(CountsOf(DenseModel(28), Nodes({0, 0}),
                       {.strategy = LayerStrategy::kCustom, .proportions = {0.7, 0.3}}),
              ElementsAre(20, 8));
  EXPECT_THAT(CountsOf(DenseModel(7), Nodes({0, 0, 0}),
                       {.strategy = LayerStrategy::kCustom, .proportions = {0.5, 0, 0.5}}),
              ElementsAre(4, 0, 3));
}

TEST(Planner, ASplitIsUsedUnchanged) {
  EXPECT_THAT(
      CountsOf(DenseModel(6), Nodes({0, 0, 0}), {.strategy = LayerStrategy::kSplit, .split = {3, 2, 1}}),
      ElementsAre(3, 2, 1));
}

TEST(Planner, CoordinatorWithoutLayersStaysInThePlan) {
  const auto plan = MakePlan(DenseModel(6), Nodes({0, 0, 0}), {.coordinator_holds_layers = false});
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_EQ(plan->nodes[0].name, "n0");
  EXPECT_EQ(plan->stage_of(Plan::kCoordinator), std::nullopt);
  EXPECT_EQ(plan->first_node(), NodeId{1});
  EXPECT_THAT(plan->notes, Contains(HasSubstr("holds no layers")));
}

TEST(Planner, DropsNodesWithoutWorkAndNotesIt) {
  const auto plan =
      MakePlan(DenseModel(2), Nodes({0, 0, 0}), {.strategy = LayerStrategy::kSplit, .split = {1, 0, 1}});
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->nodes.size(), 2u);
  EXPECT_EQ(plan->nodes[1].name, "n2");
  EXPECT_EQ(plan->last_node(), NodeId{1});
  EXPECT_THAT(plan->notes, Contains(HasSubstr("'n1' is dropped")));
}

TEST(Planner, KeepsNodesThatHoldOnlyExperts) {
  PlanRequest request{.strategy = LayerStrategy::kSplit,
                      .split = {3, 0},
                      .experts = {.strategy = ExpertStrategy::kRoundRobin}};
  const auto plan = MakePlan(MoeModel(3, 5), Nodes({0, 0}), request);
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_EQ(plan->nodes.size(), 2u);
  EXPECT_THAT(plan->experts_held(NodeId{1}, LayerId{2}), ElementsAre(ExpertId{1}, ExpertId{3}));
  EXPECT_THAT(plan->remote_owners(LayerId{2}), ElementsAre(NodeId{1}));
  EXPECT_TRUE(plan->remote_owners(LayerId{0}).empty()) << "layer 0 is dense";
}

TEST(Planner, ExpertsAreWithTheirLayerByDefault) {
  const auto plan = MakePlan(MoeModel(7, 13), Nodes({0, 0, 0}), {});
  ASSERT_TRUE(plan.ok());
  for (int32_t layer = 0; layer < 7; ++layer) {
    EXPECT_TRUE(plan->remote_owners(LayerId{layer}).empty()) << layer;
    EXPECT_EQ(std::ssize(plan->experts_held(plan->node_of(LayerId{layer}), LayerId{layer})),
              layer == 0 ? 0 : 13);
  }
}

TEST(Planner, ContiguousRangesOfExpertsDifferByAtMostOne) {
  PlanRequest request{.experts = {.strategy = ExpertStrategy::kContiguous, .over_nodes = 3}};
  const auto plan = MakePlan(MoeModel(8, 13), Nodes({0, 0, 0, 0}), request);
  ASSERT_TRUE(plan.ok());
  std::vector<int64_t> held;
  for (int32_t n = 0; n < 4; ++n) held.push_back(std::ssize(plan->experts_held(NodeId{n}, LayerId{1})));
  EXPECT_THAT(held, ElementsAre(4, 4, 5, 0));
  for (int32_t e = 1; e < 13; ++e) {
    EXPECT_LE(plan->holders(LayerId{1}, ExpertId{e - 1}).owner, plan->holders(LayerId{1}, ExpertId{e}).owner);
  }
}

TEST(Planner, TheFirstNodeThatListsAnExpertOwnsItAndOthersAreReplicas) {
  PlanRequest request{.experts = {.strategy = ExpertStrategy::kExplicit, .lists = {{0, 1, 3}, {2, 1}}}};
  const auto plan = MakePlan(MoeModel(3, 4), Nodes({0, 0}), request);
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_EQ(plan->holders(LayerId{1}, ExpertId{1}), (ExpertHolders{NodeId{0}, {NodeId{1}}}));
  EXPECT_EQ(plan->holders(LayerId{2}, ExpertId{2}), (ExpertHolders{NodeId{1}, {}}));
}

TEST(Planner, RandomExpertsDependOnTheSeedAlone) {
  PlanRequest request{.experts = {.strategy = ExpertStrategy::kRandom, .seed = 7, .replicas = 1}};
  const auto nodes = Nodes({0, 0, 0});
  const auto one = MakePlan(MoeModel(7, 13), nodes, request);
  const auto same = MakePlan(MoeModel(7, 13), nodes, request);
  request.experts.seed = 8;
  const auto other = MakePlan(MoeModel(7, 13), nodes, request);
  ASSERT_TRUE(one.ok() && same.ok() && other.ok());
  EXPECT_EQ(*one, *same);
  EXPECT_NE(one->experts, other->experts);
}

TEST(Planner, SpreadExpertsReduceTheMemoryForLayers) {
  // In MiB: 8 layers x 10 + 10 for embedding and head = 90; 70 experts, 35 on each node. n1 has 30 left: 2
  // layers and the head take 26.
  PlanRequest request{.experts = {.strategy = ExpertStrategy::kContiguous}};
  EXPECT_THAT(CountsOf(MoeModel(8, 10), Nodes({0, 65 * kMiB}, {1, 100}), request), ElementsAre(6, 2));
}

TEST(Planner, SaysWhichNodeLacksHowManyBytes) {
  // n1: 4 layers x 10 + head 6 = 46 MiB, and 1000 positions x 1024 values x 2 B x 4 layers = 8192000 B.
  const auto nodes = Nodes({0, 46 * kMiB});
  PlanRequest request{.strategy = LayerStrategy::kUniform};
  EXPECT_EQ(ErrorOf(DenseModel(8), nodes, request), "OK");
  request.kv_positions = 1000;
  const std::string error = ErrorOf(DenseModel(8), nodes, request);
  EXPECT_THAT(error, HasSubstr("RESOURCE_EXHAUSTED"));
  EXPECT_THAT(error, HasSubstr("node 'n1' lacks 7.8 MiB (8192000 B)"));
  EXPECT_THAT(error, HasSubstr("balanced"));
  request.reserve_bytes = 1;
  EXPECT_THAT(ErrorOf(DenseModel(8), nodes, request), HasSubstr("(8192001 B)"));
}

TEST(Planner, SaysHowMuchIsMissingWhenNoSplitFits) {
  // n0 takes 2 layers and the embedding (24 of 25 MiB). n1 needs 66 MiB for 6 layers and the head, and has
  // 50.
  const std::string error = ErrorOf(DenseModel(8), Nodes({25 * kMiB, 50 * kMiB}), {});
  EXPECT_THAT(error, HasSubstr("needs 90.0 MiB"));
  EXPECT_THAT(error, HasSubstr("node 'n1' lacks 16.0 MiB (16777216 B)"));
  EXPECT_EQ(ErrorOf(DenseModel(8), Nodes({25 * kMiB, 66 * kMiB}), {}), "OK");
  EXPECT_NE(ErrorOf(DenseModel(8), Nodes({25 * kMiB, 66 * kMiB - 1}), {}), "OK");
}

TEST(Planner, RowsThatCarryPicksAreNotRounded) {
  ModelFacts model = DenseModel(4);
  model.row_values = model.hidden + 2048;
  model.carried_values = 2048;
  PlanRequest request{.strategy = LayerStrategy::kUniform};
  const auto exact = MakePlan(model, Nodes({0, 0}), request);
  ASSERT_TRUE(exact.ok()) << exact.status();
  EXPECT_EQ(DecodeCost(*exact, model).bytes - DecodeCost(*exact, DenseModel(4)).bytes, 2048 * 4);
  request.wire_dtype = Plan::WireDtype::kF16;
  EXPECT_THAT(ErrorOf(model, Nodes({0, 0}), request), HasSubstr("--wire f16"));
  EXPECT_EQ(ErrorOf(DenseModel(4), Nodes({0, 0}), request), "OK");
}

TEST(Planner, ACacheOfInt8IsRefusedWhereALayerReadsFloatsOnly) {
  ModelFacts model = DenseModel(4);
  PlanRequest request{.strategy = LayerStrategy::kUniform, .kv_dtype = Plan::KvDtype::kQ8};
  EXPECT_EQ(ErrorOf(model, Nodes({0, 0}), request), "OK");
  model.layers[2].kv_q8_bytes_per_position = 0;
  EXPECT_THAT(ErrorOf(model, Nodes({0, 0}), request), AllOf(HasSubstr("layer 2"), HasSubstr("--kv-dtype q8"),
                                                            HasSubstr("expected f16, bf16 or f32")));
  request.kv_dtype = Plan::KvDtype::kBF16;
  EXPECT_EQ(ErrorOf(model, Nodes({0, 0}), request), "OK");
}

/// DenseModel with a head for multi-token prediction of 20 MiB and 512 cached values per position.
ModelFacts ModelWithMtp(int layers) {
  ModelFacts model = DenseModel(layers);
  model.mtp = {.bytes = 20 * kMiB, .kv_values_per_position = 512};
  return model;
}

TEST(Planner, AHeadThatDraftsTakesMemoryOfTheLastStage) {
  PlanRequest request{.strategy = LayerStrategy::kUniform, .kv_positions = 1024};
  const auto bytes = [&](bool mtp) {
    request.mtp = mtp;
    const auto plan = MakePlan(ModelWithMtp(4), Nodes({0, 0}), request);
    EXPECT_EQ(plan->mtp, mtp);
    const auto costs = NodeCosts(*plan, ModelWithMtp(4), {.positions = 1024});
    return std::pair(costs[0].total_bytes(), costs[1].total_bytes());
  };
  // n1 holds the embedding, too: 4 MiB; and 1024 x 512 values of 2 B, 1 MiB.
  EXPECT_EQ(bytes(true).first, bytes(false).first);
  EXPECT_EQ(bytes(true).second, bytes(false).second + 25 * kMiB);
  EXPECT_FALSE(MakePlan(DenseModel(4), Nodes({0}), request)->mtp);  // It has none.
}

TEST(Planner, TheBestSplitLeavesRoomForTheHeadThatDrafts) {
  // In MiB: n1 has room for the head of 6 and 4 layers, or for 1 layer with 20 + 4 of the head that drafts.
  for (const LayerStrategy strategy : {LayerStrategy::kBalanced, LayerStrategy::kFastest}) {
    std::vector<NodeFacts> nodes = Nodes({0, 47 * kMiB}, {1, 1});
    for (NodeFacts& node : nodes) node.rates = ThreadRates{1, 10, 100, 50, 1};
    PlanRequest request{.strategy = strategy, .mtp = false};
    if (strategy == LayerStrategy::kFastest)
      request.links = {{.a = "n0", .b = "n1", .rtt_us = 1, .mbs = 1e6}};
    EXPECT_THAT(CountsOf(ModelWithMtp(8), nodes, request), ElementsAre(4, 4)) << Name(strategy);
    request.mtp = true;
    EXPECT_THAT(CountsOf(ModelWithMtp(8), nodes, request), ElementsAre(7, 1)) << Name(strategy);
  }
}

TEST(Planner, AHeadThatDraftsIsLeftOutWhereThereIsNoRoom) {
  const PlanRequest request{.mtp = true};
  // In MiB: 4 layers x 10, 10 for embedding and head, 20 for the head that drafts.
  EXPECT_TRUE(MakePlan(ModelWithMtp(4), Nodes({70 * kMiB}), request)->mtp);
  const auto plan = MakePlan(ModelWithMtp(4), Nodes({70 * kMiB - 1}), request);
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_FALSE(plan->mtp);
  EXPECT_THAT(plan->notes, Contains(HasSubstr("multi-token prediction is left out")));
  EXPECT_THAT(ErrorOf(ModelWithMtp(4), Nodes({50 * kMiB - 1}), request), HasSubstr("RESOURCE_EXHAUSTED"));
}

TEST(Planner, AssumesUnknownMemoryUnlimitedAndNotesIt) {
  const auto plan = MakePlan(DenseModel(4), Nodes({0, 100 * kMiB}), {});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->notes, Contains("memory unknown, assumed unlimited: n0"));
}

TEST(Planner, RefusesRequestsThatDoNotFitNodesOrModel) {
  const ModelFacts dense = DenseModel(6);
  const ModelFacts moe = MoeModel(6, 8);
  const auto two = Nodes({0, 0});
  const auto custom = [](std::vector<double> p) {
    return PlanRequest{.strategy = LayerStrategy::kCustom, .proportions = p};
  };
  const auto split = [](std::vector<int64_t> s) {
    return PlanRequest{.strategy = LayerStrategy::kSplit, .split = s};
  };
  const auto experts = [](ExpertRequest e) { return PlanRequest{.experts = e}; };
  EXPECT_THAT(ErrorOf(dense, {}, {}), HasSubstr("no nodes"));
  EXPECT_THAT(ErrorOf({.name = "none"}, two, {}), HasSubstr("has no layers"));
  EXPECT_THAT(ErrorOf(dense, two, custom({1})), HasSubstr("1 entries for 2 nodes"));
  EXPECT_THAT(ErrorOf(dense, two, custom({0.7, 0.2})), HasSubstr("sum to 0.9"));
  EXPECT_THAT(ErrorOf(dense, two, custom({1.5, -0.5})), HasSubstr("'n1' is below 0"));
  EXPECT_THAT(ErrorOf(dense, two, custom({1, std::nan("")})), HasSubstr("'n1' is below 0"));
  EXPECT_THAT(ErrorOf(dense, two, split({3, 2})), HasSubstr("does not sum to the 6 layers"));
  EXPECT_THAT(ErrorOf(dense, two, split({INT64_MAX, 8})), HasSubstr("does not sum to the 6 layers"));
  EXPECT_THAT(ErrorOf(dense, two, split({3, 2, 1})), HasSubstr("3 entries for 2 nodes"));
  EXPECT_THAT(ErrorOf(dense, two, {.strategy = LayerStrategy::kMemory}),
              HasSubstr("needs the memory of every node, node 'n0'"));
  EXPECT_THAT(ErrorOf(dense, Nodes({0, 0}, {4}), {.strategy = LayerStrategy::kCompute}),
              HasSubstr("node 'n1'"));
  EXPECT_THAT(ErrorOf(dense, Nodes({0}), {.coordinator_holds_layers = false}),
              HasSubstr("no node may hold layers"));
  EXPECT_THAT(ErrorOf(dense, Nodes({-1}), {}), HasSubstr("memory -1 B"));
  EXPECT_THAT(ErrorOf(dense, two, {.kv_positions = -1}), HasSubstr("-1 positions"));
  EXPECT_THAT(ErrorOf(moe, two, experts({.strategy = ExpertStrategy::kContiguous, .over_nodes = 3})),
              HasSubstr("over 3 nodes"));
  EXPECT_THAT(ErrorOf(moe, two, experts({.strategy = ExpertStrategy::kContiguous, .replicas = 2})),
              HasSubstr("2 replicas"));
  EXPECT_THAT(ErrorOf(moe, two,
                      experts({.strategy = ExpertStrategy::kExplicit, .lists = {{0, 1, 2, 3, 4, 5, 6}, {}}})),
              HasSubstr("no node lists expert 7"));
  EXPECT_THAT(ErrorOf(moe, two, experts({.strategy = ExpertStrategy::kExplicit, .lists = {{8}, {}}})),
              HasSubstr("expert 8"));
  EXPECT_THAT(ErrorOf(moe, two, experts({.strategy = ExpertStrategy::kExplicit, .lists = {{1, 1}, {}}})),
              HasSubstr("expert 1 twice"));
  EXPECT_THAT(ErrorOf(moe, two, experts({.strategy = ExpertStrategy::kExplicit, .lists = {{1}}})),
              HasSubstr("1 expert lists for 2"));
  auto no_experts = two;
  no_experts[1].may_hold_experts = false;
  EXPECT_THAT(ErrorOf(moe, no_experts, {}), HasSubstr("'n1' runs layer 3 but may hold no experts"));
  auto no_layers = two;
  no_layers[1].may_hold_layers = false;
  EXPECT_THAT(ErrorOf(moe, no_layers, split({5, 1})), HasSubstr("'n1', which may hold no layers"));
  auto twins = two;
  twins[1].name = "n0";
  EXPECT_THAT(ErrorOf(moe, twins, {}), HasSubstr("two nodes have the name 'n0'"));
}

/// A random case; some do not fit.
struct RandomCase {
  ModelFacts model;
  std::vector<NodeFacts> nodes;
  PlanRequest request;
};

RandomCase MakeCase(uint64_t seed) {
  RandomStream random(seed);
  RandomCase c;
  c.model = MoeModel(1 + static_cast<int>(random.below(23)), static_cast<int>(random.below(14)));
  c.model.tied_head = random.below(2) == 0;
  for (LayerFacts& layer : c.model.layers) layer.bytes = static_cast<int64_t>(random.below(20)) * kMiB;
  const size_t nodes = 1 + random.below(6);
  std::vector<int64_t> memory(nodes);
  std::vector<double> compute(nodes);
  for (size_t i = 0; i < nodes; ++i) {
    memory[i] = random.below(3) == 0 ? 0 : static_cast<int64_t>(random.below(300)) * kMiB;
    compute[i] = static_cast<double>(1 + random.below(40));
  }
  c.nodes = Nodes(memory, compute);
  for (NodeFacts& node : c.nodes) node.may_hold_layers = random.below(8) != 0;
  constexpr LayerStrategy kLayer[] = {LayerStrategy::kUniform, LayerStrategy::kMemory,
                                      LayerStrategy::kCompute, LayerStrategy::kBalanced};
  constexpr ExpertStrategy kExpert[] = {ExpertStrategy::kWithLayer, ExpertStrategy::kContiguous,
                                        ExpertStrategy::kRoundRobin, ExpertStrategy::kRandom};
  c.request.strategy = kLayer[random.below(4)];
  c.request.experts = {.strategy = kExpert[random.below(4)],
                       .seed = seed,
                       .replicas = static_cast<int32_t>(random.below(nodes))};
  c.request.coordinator_holds_layers = random.below(4) != 0;
  c.request.kv_positions = static_cast<int64_t>(random.below(4096));
  c.request.sequences = static_cast<int64_t>(random.below(4));
  for (NodeFacts& node : c.nodes) {
    if (random.below(3) == 0) node.expert_memory_bytes = static_cast<int64_t>(1 + random.below(40)) * kMiB;
  }
  if (random.below(3) == 0) c.model.layers[0].state_bytes = static_cast<int64_t>(random.below(8)) * kMiB;
  return c;
}

TEST(Planner, PlansOfRandomFactsAreValidFitAndAreReproducible) {
  int made = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    const RandomCase c = MakeCase(seed);
    const auto plan = MakePlan(c.model, c.nodes, c.request);
    if (!plan.ok()) {
      EXPECT_FALSE(Message(plan.status()).empty());
      continue;
    }
    ++made;
    ASSERT_TRUE(Validate(*plan, c.model).ok()) << seed;
    ASSERT_EQ(*plan, *MakePlan(c.model, c.nodes, c.request)) << seed;
    ASSERT_EQ(plan->nodes[0].name, "n0") << seed;
    const auto costs = NodeCosts(*plan, c.model, {c.request.kv_positions, c.request.sequences}, c.nodes);
    for (size_t i = 0; i < plan->nodes.size(); ++i) {
      const auto facts = std::find_if(c.nodes.begin(), c.nodes.end(),
                                      [&](const NodeFacts& n) { return n.name == plan->nodes[i].name; });
      if (facts->memory_bytes > 0) {
        ASSERT_LE(costs[i].total_bytes(), facts->memory_bytes) << seed;
      }
      if (!facts->may_hold_layers || (i == 0 && !c.request.coordinator_holds_layers)) {
        ASSERT_TRUE(plan->layers_of(NodeId{static_cast<int32_t>(i)}).empty()) << seed;
      }
    }
    const auto again = PlanFromJson(PlanToJson(*plan));
    ASSERT_TRUE(again.ok()) << ToString(again.status());
    ASSERT_EQ(*again, *plan) << seed;
  }
  EXPECT_GT(made, 1000) << "too few of the cases make a plan to say much";
}

/// All contiguous splits of `layers` over `nodes`.
void AllSplits(int64_t layers, size_t nodes, std::vector<int64_t>& split,
               std::vector<std::vector<int64_t>>& all) {
  if (split.size() + 1 == nodes) {
    split.push_back(layers);
    all.push_back(split);
    split.pop_back();
    return;
  }
  for (int64_t n = 0; n <= layers; ++n) {
    split.push_back(n);
    AllSplits(layers - n, nodes, split, all);
    split.pop_back();
  }
}

double SlowestStage(const SplitProblem& problem, const std::vector<int64_t>& split) {
  double slowest = 0;
  int64_t begin = 0;
  for (size_t i = 0; i < split.size(); ++i) {
    const Range range{begin, begin + split[i]};
    begin = range.end;
    double read = problem.nodes[i].busy_bytes;
    for (int64_t l = range.begin; l < range.end; ++l)
      read += static_cast<double>(problem.layers[static_cast<size_t>(l)].read_bytes);
    if (!range.empty() && range.end == std::ssize(problem.layers))
      read += static_cast<double>(problem.head_bytes);
    const SplitProblem::Node& node = problem.nodes[i];
    if (!range.empty() && problem.held_bytes(range, node.expert_bytes_max) > node.room_bytes) return HUGE_VAL;
    slowest = std::max(slowest, read / problem.nodes[i].compute);
  }
  return slowest;
}

TEST(BalancedSplit, IsNeverSlowerThanAnyOtherSplitThatFits) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    RandomStream random(seed);
    SplitProblem problem{.embed_bytes = static_cast<int64_t>(random.below(20)),
                         .head_bytes = static_cast<int64_t>(random.below(20)),
                         .tied_head = random.below(2) == 0};
    for (uint64_t l = 0, n = 1 + random.below(8); l < n; ++l) {
      problem.layers.push_back({.held_bytes = static_cast<int64_t>(random.below(30)),
                                .expert_bytes = static_cast<int64_t>(random.below(20)),
                                .read_bytes = static_cast<int64_t>(random.below(30))});
    }
    for (uint64_t i = 0, n = 1 + random.below(3); i < n; ++i) {
      problem.nodes.push_back({.room_bytes = static_cast<int64_t>(random.below(150)),
                               .expert_bytes_max = random.below(2) == 0
                                                       ? SplitProblem::kUnlimited
                                                       : static_cast<int64_t>(random.below(40)),
                               .compute = static_cast<double>(1 + random.below(5)),
                               .busy_bytes = static_cast<double>(random.below(10))});
    }
    std::vector<std::vector<int64_t>> all;
    std::vector<int64_t> split;
    AllSplits(std::ssize(problem.layers), problem.nodes.size(), split, all);
    double best = HUGE_VAL;
    for (const auto& candidate : all) best = std::min(best, SlowestStage(problem, candidate));
    const auto found = BalancedSplit(problem);
    ASSERT_EQ(found.has_value(), best != HUGE_VAL) << seed;
    if (found) {
      ASSERT_DOUBLE_EQ(SlowestStage(problem, *found), best) << seed;
    }
  }
}

TEST(Planner, ExpertsBeyondANodesMemoryForThemStayOnItsDisk) {
  const ModelFacts model = MoeModel(5, 16);  // 50 MiB of layers, 10 of embedding and head, 64 of experts.
  std::vector<NodeFacts> nodes = Nodes({80 * kMiB});
  const auto refused = MakePlan(model, nodes, {});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(ToString(refused.status()), HasSubstr("--expert-memory"));
  nodes[0].expert_memory_bytes = 16 * kMiB;
  nodes[0].disk_mbs = 1000;
  for (const auto strategy : {LayerStrategy::kBalanced, LayerStrategy::kUniform}) {
    const auto plan = MakePlan(model, nodes, {.strategy = strategy});
    ASSERT_TRUE(plan.ok()) << ToString(plan.status());
    const NodeCost cost = NodeCosts(*plan, model, {}, nodes)[0];
    EXPECT_EQ(cost.expert_bytes, 16 * kMiB);
    EXPECT_EQ(cost.expert_disk_bytes, 48 * kMiB);
    EXPECT_EQ(cost.total_bytes(), 76 * kMiB);
    // 16 experts of a token, three of four of them on the disk.
    EXPECT_DOUBLE_EQ(DiskBytesPerToken(*plan, model, NodeId{0}, cost), 12.0 * kMiB);
    EXPECT_THAT(plan->notes,
                Contains(HasSubstr("at a hit rate of 25 %, as if all were picked alike, 12.0 MiB a token; "
                                   "0.01 s a token from its disk alone, at 1000 MB/s")));
  }
  nodes[0].expert_memory_bytes = 24 * kMiB;
  EXPECT_FALSE(MakePlan(model, nodes, {}).ok());
  EXPECT_THAT(ToString(MakePlan(DenseModel(9), Nodes({80 * kMiB}), {}).status()),
              Not(HasSubstr("--expert-memory")));
}

TEST(BalancedSplit, IsTheMostEvenOfTheFastestSplits) {
  SplitProblem problem;
  for (const int64_t read : {100, 10, 10, 10, 10}) problem.layers.push_back({.read_bytes = read});
  problem.nodes.resize(3);
  EXPECT_THAT(*BalancedSplit(problem), ElementsAre(1, 2, 2));
}

TEST(PlacementFlags, NamesAndAliasesAreUnderstood) {
  EXPECT_EQ(*ParseLayerStrategy("memory_proportional"), LayerStrategy::kMemory);
  EXPECT_EQ(*ParseLayerStrategy("compute_proportional"), LayerStrategy::kCompute);
  for (const auto strategy : {LayerStrategy::kUniform, LayerStrategy::kMemory, LayerStrategy::kCompute,
                              LayerStrategy::kBalanced, LayerStrategy::kCustom, LayerStrategy::kSplit}) {
    EXPECT_EQ(*ParseLayerStrategy(Name(strategy)), strategy);
  }
  EXPECT_THAT(Message(ParseLayerStrategy("memroy").status()), HasSubstr("did you mean memory?"));
  EXPECT_EQ(ParseExpertRequest("even:3")->over_nodes, 3);
  EXPECT_EQ(ParseExpertRequest("random:42")->seed, 42u);
  EXPECT_THAT(ParseExpertRequest("explicit:0-2;;5")->lists,
              ElementsAre(ElementsAre(0, 1, 2), ElementsAre(), ElementsAre(5)));
  EXPECT_THAT(*ParseSplit("3,0,1"), ElementsAre(3, 0, 1));
}

TEST(PlacementFlags, WrongWordsAreRefused) {
  for (const char* text :
       {"", "contigous", "even:", "even:0", "even:x", "with_layer:1", "random:-1", "explicit", "explicit:1-",
        "explicit:3-1", "explicit:1,1", "explicit:-1", "explicit:99999"}) {
    EXPECT_FALSE(ParseExpertRequest(text).ok()) << text;
  }
  for (const char* text : {"", "3,", "3,-1", "3.5", "a", "99999999999999999999"})
    EXPECT_FALSE(ParseSplit(text).ok()) << text;
}

}  // namespace
}  // namespace shoal
