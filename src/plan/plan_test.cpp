#include "plan/plan.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "plan/compare.h"
#include "plan/cost.h"
#include "plan/plan_test_models.h"
#include "plan/planner.h"
#include "plan/rounding.h"
#include "plan/spare.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

/// Two nodes with layers [0, 1) and [1, 3). Layers 1 and 2 have 4 experts, spread over both; expert 3 has a
/// replica.
Plan SmallPlan() {
  PlanRequest request{.strategy = LayerStrategy::kSplit, .split = {1, 2}};
  request.experts = {.strategy = ExpertStrategy::kExplicit, .lists = {{0, 1}, {2, 3}}};
  Plan plan = *MakePlan(MoeModel(3, 4), Nodes({0, 0}), request);
  plan.experts[2][3].replicas = {NodeId{0}};
  plan.notes = {"made for \"tests\""};
  return plan;
}

std::string ErrorOf(const Plan& plan) { return ToString(Validate(plan, MoeModel(3, 4))); }

TEST(Plan, FindsTheNodesOfLayersAndExperts) {
  const Plan plan = SmallPlan();
  EXPECT_EQ(plan.layers_of(NodeId{1}), (Range{1, 3}));
  EXPECT_EQ(plan.node_of(LayerId{0}), NodeId{0});
  EXPECT_EQ(plan.node_of(LayerId{2}), NodeId{1});
  EXPECT_EQ(plan.stage_of(NodeId{1}), 1);
  EXPECT_EQ(plan.find_node("n1"), NodeId{1});
  EXPECT_EQ(plan.find_node("n9"), std::nullopt);
  EXPECT_THAT(plan.experts_held(NodeId{0}, LayerId{2}),
              ::testing::ElementsAre(ExpertId{0}, ExpertId{1}, ExpertId{3}));
  EXPECT_THAT(plan.remote_owners(LayerId{2}), ::testing::ElementsAre(NodeId{0}));
}

TEST(Plan, ServesWithoutNodesWhoseExpertsOthersHold) {
  PlanRequest request{.strategy = LayerStrategy::kSplit, .split = {3, 0, 0, 0}};
  request.experts = {.strategy = ExpertStrategy::kContiguous, .replicas = 1};  // On the next node.
  const Plan plan = *MakePlan(MoeModel(3, 4), Nodes({0, 0, 0, 0}), request);
  EXPECT_TRUE(ServesWithout(plan, {false, false, false, false}));
  EXPECT_TRUE(ServesWithout(plan, {false, true, false, false}));
  EXPECT_TRUE(ServesWithout(plan, {false, true, false, true}));
  EXPECT_FALSE(ServesWithout(plan, {false, true, true, false}));
  EXPECT_FALSE(ServesWithout(plan, {true, false, false, false}));  // It runs the layers, and coordinates.
  request.experts.replicas = 0;
  EXPECT_FALSE(
      ServesWithout(*MakePlan(MoeModel(3, 4), Nodes({0, 0, 0, 0}), request), {false, true, false, false}));
  request.split = {2, 1, 0, 0};
  request.experts.replicas = 3;
  EXPECT_FALSE(
      ServesWithout(*MakePlan(MoeModel(3, 4), Nodes({0, 0, 0, 0}), request), {false, true, false, false}));
}

TEST(Plan, RejectsLayersThatNoStageRuns) {
  Plan plan = SmallPlan();
  plan.stages[1].layers.end = 2;
  EXPECT_THAT(ErrorOf(plan), HasSubstr("no stage runs layers [2, 3)"));
  plan.stages[1].layers = {2, 3};
  EXPECT_THAT(ErrorOf(plan), HasSubstr("expected a range from 1 on"));
}

TEST(Plan, RejectsInconsistentNodesStagesAndHolders) {
  const Plan good = SmallPlan();
  ASSERT_EQ(ErrorOf(good), "OK");
  const auto error = [&](auto change) {
    Plan plan = good;
    change(plan);
    return ErrorOf(plan);
  };
  EXPECT_THAT(error([](Plan& p) { p.nodes.clear(); }), HasSubstr("got 0"));
  EXPECT_THAT(error([](Plan& p) { p.nodes[1].name = "n0"; }), HasSubstr("two nodes have the name 'n0'"));
  EXPECT_THAT(error([](Plan& p) { p.nodes[1].name = "a b"; }), HasSubstr("letters, digits"));
  EXPECT_THAT(error([](Plan& p) { p.nodes[1].name = ""; }), HasSubstr("letters, digits"));
  EXPECT_THAT(error([](Plan& p) { p.nodes[1].address = "host"; }), HasSubstr("HOST:PORT"));
  EXPECT_THAT(error([](Plan& p) { p.nodes[0].address = p.nodes[1].address; }),
              HasSubstr("two nodes have the address"));
  EXPECT_THAT(error([](Plan& p) { p.stages.clear(); }), HasSubstr("no stage runs layers [0, 3)"));
  EXPECT_THAT(error([](Plan& p) { p.stages[0].layers = {0, 2}; }), HasSubstr("expected a range from 2 on"));
  EXPECT_THAT(error([](Plan& p) { p.stages[0].layers = {0, 0}; }), HasSubstr("runs layers [0, 0)"));
  EXPECT_THAT(error([](Plan& p) { p.stages[1].layers = {1, 4}; }), HasSubstr("within [0, 3)"));
  EXPECT_THAT(error([](Plan& p) { p.stages[1].node = NodeId{0}; }), HasSubstr("has two stages"));
  EXPECT_THAT(error([](Plan& p) { p.stages[1].node = NodeId{2}; }), HasSubstr("there are 2 nodes"));
  EXPECT_THAT(error([](Plan& p) { p.stages[1].node = NodeId{-1}; }), HasSubstr("node -1"));
  EXPECT_THAT(error([](Plan& p) { p.experts[1][2].owner = NodeId{-1}; }),
              HasSubstr("expert 2 of layer 1 is owned by node -1"));
  EXPECT_THAT(error([](Plan& p) { p.experts[1][2].replicas = {NodeId{1}}; }),
              HasSubstr("expert 2 of layer 1: replica on node 1"));
  EXPECT_THAT(error([](Plan& p) {
                p.experts[1][0].replicas = {NodeId{1}, NodeId{1}};
              }),
              HasSubstr("replica on node 1"));
  EXPECT_THAT(error([](Plan& p) { p.experts[1].pop_back(); }), HasSubstr("layer 1 has owners for 3 experts"));
}

TEST(Plan, RejectsThePlanOfAnotherModel) {
  Plan plan = SmallPlan();
  ModelFacts model = MoeModel(3, 4);
  model.hash = "m2";
  EXPECT_THAT(ToString(Validate(plan, model)), HasSubstr("FAILED_PRECONDITION"));
  plan.model_hash.clear();
  EXPECT_TRUE(Validate(plan, model).ok()) << "a hand-written plan needs no hash";
  EXPECT_THAT(ToString(Validate(plan, MoeModel(4, 4))), HasSubstr("it has 3 layers, the model 'moe' has 4"));
}

/// Three stages of six layers, with experts on the nodes that run them or over all nodes.
Plan RoundedPlan(Plan::WireDtype wire, std::vector<int64_t> split, ExpertStrategy experts, int replicas = 0) {
  PlanRequest request{.strategy = LayerStrategy::kSplit, .split = std::move(split)};
  request.experts = {.strategy = experts, .replicas = replicas};
  request.wire_dtype = wire;
  return *MakePlan(MoeModel(6, 4), Nodes({0, 0, 0}), request);
}

TEST(Rounding, NamesWhatDecidesBitsAndNothingElse) {
  using Wire = Plan::WireDtype;
  constexpr auto kWith = ExpertStrategy::kWithLayer;
  const std::string q8 = RoundingsOf(RoundedPlan(Wire::kQ8, {2, 2, 2}, kWith));
  EXPECT_FALSE(q8.empty());
  EXPECT_EQ(RoundingsOf(RoundedPlan(Wire::kExact, {2, 2, 2}, kWith)), "");
  EXPECT_EQ(RoundingsOf(RoundedPlan(Wire::kQ8, {6, 0, 0}, kWith)), "");  // Nothing travels.
  EXPECT_NE(RoundingsOf(RoundedPlan(Wire::kF16, {2, 2, 2}, kWith)), q8);
  EXPECT_NE(RoundingsOf(RoundedPlan(Wire::kQ8, {2, 1, 3}, kWith)), q8);
  const std::string spread = RoundingsOf(RoundedPlan(Wire::kQ8, {2, 2, 2}, ExpertStrategy::kRoundRobin));
  EXPECT_NE(spread, q8);
  EXPECT_NE(RoundingsOf(RoundedPlan(Wire::kQ8, {6, 0, 0}, ExpertStrategy::kRoundRobin)), "");
  // A copy on the node that runs the layer is used there; on another node it is not.
  EXPECT_NE(RoundingsOf(RoundedPlan(Wire::kQ8, {2, 2, 2}, ExpertStrategy::kRoundRobin, 1)), spread);
  Plan other = RoundedPlan(Wire::kQ8, {2, 2, 2}, ExpertStrategy::kRoundRobin);
  other.epoch = Epoch{9};
  for (PlanNode& node : other.nodes) node.name += "-again";
  EXPECT_EQ(RoundingsOf(other), spread);
}

TEST(Rounding, IsSaidInTheNotesOnce) {
  Plan plan = RoundedPlan(Plan::WireDtype::kQ8, {2, 2, 2}, ExpertStrategy::kWithLayer);
  const auto noted = [&] {
    return std::ranges::count_if(plan.notes, [](const std::string& note) {
      return note.find("depend on this placement") != std::string::npos;
    });
  };
  EXPECT_EQ(noted(), 1);
  NoteRounding(plan);
  EXPECT_EQ(noted(), 1);
  plan = RoundedPlan(Plan::WireDtype::kExact, {2, 2, 2}, ExpertStrategy::kWithLayer);
  EXPECT_EQ(noted(), 0);
}

TEST(Rounding, NobodyStandsInForAnOwner) {
  for (const auto& [wire, serves] :
       {std::pair{Plan::WireDtype::kExact, true}, std::pair{Plan::WireDtype::kQ8, false}}) {
    const Plan plan = RoundedPlan(wire, {6, 0, 0}, ExpertStrategy::kContiguous, 1);
    EXPECT_EQ(ServesWithout(plan, {false, true, false}), serves) << Name(wire);
  }
}

TEST(Rounding, ATokenSendsTheBytesOfTheFormat) {
  const ModelFacts model = MoeModel(6, 4);
  const auto bytes = [&](Plan::WireDtype wire, ExpertStrategy experts) {
    return DecodeCost(RoundedPlan(wire, {2, 2, 2}, experts), model).bytes;
  };
  const int64_t ids = 4;  // Of the result.
  EXPECT_EQ(bytes(Plan::WireDtype::kExact, ExpertStrategy::kWithLayer), 2 * 4 * model.hidden + ids);
  EXPECT_EQ(bytes(Plan::WireDtype::kF16, ExpertStrategy::kWithLayer), 2 * 2 * model.hidden + ids);
  EXPECT_EQ(bytes(Plan::WireDtype::kQ8, ExpertStrategy::kWithLayer), 2 * model.hidden * 34 / 32 + ids);
  EXPECT_LT(bytes(Plan::WireDtype::kQ8, ExpertStrategy::kRoundRobin),
            bytes(Plan::WireDtype::kExact, ExpertStrategy::kRoundRobin) / 4);
}

TEST(PlanJson, TheFormatOfRowsIsKept) {
  for (const Plan::WireDtype wire : {Plan::WireDtype::kExact, Plan::WireDtype::kF16, Plan::WireDtype::kQ8}) {
    Plan plan = SmallPlan();
    plan.wire_dtype = wire;
    const auto read = PlanFromJson(PlanToJson(plan));
    ASSERT_TRUE(read.ok()) << ToString(read.status());
    EXPECT_EQ(*read, plan);
  }
}

TEST(PlanJson, WritesTheSameTextForTheSamePlan) {
  EXPECT_EQ(PlanToJson(SmallPlan()), R"({
  "format": "shoal-plan-1",
  "epoch": 1,
  "model": {"name":"moe","hash":"m1","layers":3},
  "wire_dtype": "f32",
  "activations": "int8",
  "kv_dtype": "f16",
  "nodes": [
    {"name":"n0"},
    {"name":"n1","address":"n1.local:50051"}
  ],
  "stages": [
    {"node":"n0","layers":[0,1]},
    {"node":"n1","layers":[1,3]}
  ],
  "experts": [
    {"layers":[1,2],"owners":{"n0":"0-1","n1":"2-3"}},
    {"layers":[2,3],"owners":{"n0":"0-1","n1":"2-3"},"replicas":{"n0":"3"}}
  ],
  "notes": [
    "made for \"tests\""
  ]
}
)");
}

TEST(PlanJson, ReadsBackAnEqualPlan) {
  Plan plan = SmallPlan();
  plan.epoch = Epoch{4294967295u};
  plan.activations = Plan::Activations::kF32;
  for (const Plan::KvDtype kv : {Plan::KvDtype::kBF16, Plan::KvDtype::kQ8}) {
    plan.kv_dtype = kv;
    const auto again = PlanFromJson(PlanToJson(plan));
    ASSERT_TRUE(again.ok()) << ToString(again.status());
    EXPECT_EQ(*again, plan);
  }
}

/// The error of reading the small plan with `piece` of its text replaced.
std::string ErrorWith(const std::string& piece, const std::string& replacement) {
  std::string text = PlanToJson(SmallPlan());
  const size_t at = text.find(piece);
  EXPECT_NE(at, std::string::npos) << piece;
  text.replace(at, piece.size(), replacement);
  return ToString(PlanFromJson(text).status());
}

TEST(PlanJson, AHeadThatDraftsIsKept) {
  Plan plan = SmallPlan();
  plan.mtp = true;
  const auto read = PlanFromJson(PlanToJson(plan));
  ASSERT_TRUE(read.ok()) << ToString(read.status());
  EXPECT_EQ(*read, plan);
  EXPECT_THAT(ErrorOf(plan), HasSubstr("plan: mtp"));  // The model has none.
}

TEST(PlanJson, ErrorsNameThePlace) {
  EXPECT_THAT(ErrorWith("\"epoch\"", "\"epcoh\""), HasSubstr("epcoh: unknown key; did you mean epoch?"));
  EXPECT_THAT(ErrorWith("\"epoch\": 1,", ""), HasSubstr("the key epoch is missing"));
  EXPECT_THAT(ErrorWith("\"epoch\": 1", "\"epoch\": -1"), HasSubstr("epoch: expected a whole number from 0"));
  EXPECT_THAT(ErrorWith("\"epoch\": 1", "\"epoch\": 1.5"), HasSubstr("got the number 1.5"));
  EXPECT_THAT(ErrorWith("shoal-plan-1", "shoal-plan-9"), HasSubstr("expected \"shoal-plan-1\""));
  EXPECT_THAT(ErrorWith("\"wire_dtype\": \"f32\"", "\"wire_dtype\": \"q4\""),
              HasSubstr("wire format 'q4': expected exact or f16 or q8"));
  EXPECT_THAT(ErrorWith("\"int8\"", "\"int7\""), HasSubstr("activations 'int7': expected int8 or f32"));
  EXPECT_THAT(ErrorWith("{\"node\":\"n1\",\"layers\":[1,3]}", "{\"node\":\"nl\",\"layers\":[1,3]}"),
              HasSubstr("stages[1].node: no node has the name 'nl'; did you mean n0?"));
  EXPECT_THAT(ErrorWith("\"layers\":[0,1]", "\"layers\":[0]"),
              HasSubstr("stages[0].layers: expected [begin, end)"));
  EXPECT_THAT(ErrorWith("\"layers\":[0,1]", "\"layers\":[0,9]"),
              HasSubstr("stages[0].layers[1]: expected a whole number from 0 to 3"));
  EXPECT_THAT(ErrorWith("\"n1\":\"2-3\"", "\"n1\":\"1-3\""),
              HasSubstr("experts[0].owners: expert 1 has two owners"));
  EXPECT_THAT(ErrorWith("\"n1\":\"2-3\"", "\"n1\":\"3\""),
              HasSubstr("experts[0].owners: expert 2 has no owner"));
  EXPECT_THAT(ErrorWith("\"n1\":\"2-3\"", "\"n1\":\"2-9999\""), HasSubstr("from 0 to 4095, got 9999"));
  EXPECT_THAT(ErrorWith("\"n0\":\"3\"", "\"n1\":\"3\""), HasSubstr("expert 3 has its owner as a replica"));
  EXPECT_THAT(ErrorWith("\"layers\":[2,3],\"owners\"", "\"layers\":[1,3],\"owners\""),
              HasSubstr("experts of layer 1 are placed twice"));
  EXPECT_THAT(ErrorWith("{\"name\":\"n0\"}", "{\"name\":\"n0\",\"name\":\"n0\"}"),
              HasSubstr("the key 'name' appears twice"));
  EXPECT_THAT(ErrorWith("\"notes\": [", "\"notes\": [[[[[[[[["), HasSubstr("nested more than 6 deep"));
  EXPECT_THAT(ErrorWith("\"epoch\": 1,", "\"epoch\": 1"), HasSubstr("not valid JSON: parse error at line 4"));
  EXPECT_THAT(ToString(PlanFromJson("").status()), HasSubstr("not valid JSON"));
  EXPECT_THAT(ToString(PlanFromJson(std::string(20 << 20, ' ')).status()), HasSubstr("at most 16.0 MiB"));
}

TEST(PlanJson, ErrorsNameTheFile) {
  EXPECT_THAT(ToString(ReadPlanFile("/nonexistent/plan.json").status()),
              HasSubstr("NOT_FOUND: /nonexistent/plan.json"));
  const auto path =
      std::filesystem::temp_directory_path() / fmt::format("shoal_plan_test_{}.json", ::getpid());
  std::ofstream(path) << PlanToJson(SmallPlan());
  const auto plan = ReadPlanFile(path.string());
  std::ofstream(path) << "{}";
  const auto broken = ReadPlanFile(path.string());
  std::filesystem::remove(path);
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_EQ(*plan, SmallPlan());
  EXPECT_THAT(ToString(broken.status()), HasSubstr(path.string() + ": the file: the key format is missing"));
}

TEST(Cost, AddsUpTheBytesThatEachNodeHolds) {
  const auto costs = NodeCosts(SmallPlan(), MoeModel(3, 4), {.positions = 100});
  // n0 has one layer and the embedding, experts 0 and 1 of two layers, and a replica of one expert.
  EXPECT_EQ(costs[0].layer_bytes, 10 * kMiB);
  EXPECT_EQ(costs[0].embedding_head_bytes, 4 * kMiB);
  EXPECT_EQ(costs[0].expert_bytes, 5 * kMiB);
  EXPECT_EQ(costs[0].kv_bytes, 1024 * 2 * 100);
  EXPECT_EQ(costs[1].weight_bytes(), (20 + 6 + 4) * kMiB);
  EXPECT_EQ(costs[1].total_bytes(), 30 * kMiB + 2 * 1024 * 2 * 100);
}

TEST(Cost, CountsACacheOfInt8WithItsScales) {
  Plan plan = SmallPlan();
  plan.kv_dtype = Plan::KvDtype::kQ8;
  EXPECT_EQ(NodeCosts(plan, MoeModel(3, 4), {.positions = 100})[0].kv_bytes, 1056 * 100);
}

TEST(Cost, ATiedHeadCountsOnceOnOneNodeAndTwiceOnTwo) {
  ModelFacts model = DenseModel(2);
  model.tied_head = true;
  model.head_bytes = model.embed_bytes;
  EXPECT_EQ(NodeCosts(*MakePlan(model, Nodes({0}), {}), model, {})[0].embedding_head_bytes, 4 * kMiB);
  const auto two =
      NodeCosts(*MakePlan(model, Nodes({0, 0}), {.strategy = LayerStrategy::kUniform}), model, {});
  EXPECT_EQ(two[0].embedding_head_bytes + two[1].embedding_head_bytes, 8 * kMiB);
}

TEST(Cost, StatesTakeOneSlotMoreThanThereAreStages) {
  ModelFacts model = DenseModel(4);
  for (const size_t layer : {0, 1, 3}) model.layers[layer].state_bytes = kMiB;
  const CacheSize cache{.positions = 0, .sequences = 5};
  EXPECT_EQ(NodeCosts(*MakePlan(model, Nodes({0}), {}), model, cache)[0].state_bytes, 3 * 3 * 5 * kMiB);
  const Plan two = *MakePlan(model, Nodes({0, 0}), {.strategy = LayerStrategy::kUniform});
  EXPECT_EQ(NodeCosts(two, model, cache)[0].state_bytes, 2 * 3 * 5 * kMiB);
  EXPECT_EQ(NodeCosts(two, model, cache)[1].state_bytes, 1 * 3 * 5 * kMiB);
  EXPECT_THAT(PlanReport(two, model, cache), HasSubstr("states of 5 sequences"));
}

TEST(Cost, CountsOneMessagePerHopAndOnePerLayerAndRemoteOwner) {
  const TokenCost small = DecodeCost(SmallPlan(), MoeModel(3, 4));
  EXPECT_EQ(small.hops, 1);
  EXPECT_EQ(small.expert_calls, 2) << "layers 1 and 2 on n1 ask n0";
  EXPECT_EQ(small.results, 1);
  EXPECT_EQ(small.messages(), 4);
  // A row of f32 and a sampled id; for two layers a row there, its sum back, and 4 ids and weights.
  EXPECT_EQ(small.bytes, 128 * 4 + 4 + 2 * (128 * 12 + 4 * 8));

  const TokenCost alone = DecodeCost(*MakePlan(MoeModel(3, 4), Nodes({0}), {}), MoeModel(3, 4));
  EXPECT_EQ(alone.messages(), 0);
  EXPECT_EQ(alone.bytes, 0);

  const auto workers = MakePlan(DenseModel(4), Nodes({0, 0, 0}), {.coordinator_holds_layers = false});
  EXPECT_EQ(DecodeCost(*workers, DenseModel(4)).messages(), 3) << "to n1, to n2, back";
}

TEST(Cost, ATokenAsksAtMostTopKOwners) {
  PlanRequest request{.strategy = LayerStrategy::kSplit, .split = {2, 0, 0, 0, 0, 0, 0}};
  request.experts.strategy = ExpertStrategy::kRoundRobin;
  const auto plan = MakePlan(MoeModel(2, 14), Nodes({0, 0, 0, 0, 0, 0, 0}), request);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->remote_owners(LayerId{1}).size(), 6u);
  EXPECT_EQ(DecodeCost(*plan, MoeModel(2, 14)).expert_calls, 4);
}

TEST(Report, ShowsEveryNodeAndNote) {
  const std::string report = PlanReport(SmallPlan(), MoeModel(3, 4), {.positions = 100});
  EXPECT_THAT(report, HasSubstr("n0 (coordinator)  this process    [0, 1)  5 in 2 layers"));
  EXPECT_THAT(report, HasSubstr("n1                n1.local:50051  [1, 3)  2-3 of 2 layers"));
  EXPECT_THAT(report, HasSubstr("at most 4 messages (1 hops, 2 expert calls, 1 results)"));
  EXPECT_THAT(report, HasSubstr("- made for \"tests\""));

  PlanRequest spread{.strategy = LayerStrategy::kUniform,
                     .experts = {.strategy = ExpertStrategy::kRoundRobin}};
  const ModelFacts wide = MoeModel(3, 64);
  EXPECT_THAT(PlanReport(*MakePlan(wide, Nodes({0, 0}), spread), wide, {}),
              HasSubstr("32 of each of 2 layers"));

  const std::string json = PlanReportJson(SmallPlan(), MoeModel(3, 4), {.positions = 100}, {});
  EXPECT_THAT(json, HasSubstr("\"expert_copies\": 5"));
  EXPECT_THAT(json, HasSubstr("\"messages_max\": 4"));
}

}  // namespace
}  // namespace shoal
