// Who shares the dense feed-forwards and shared experts of a model, in requests, plans, plan files, costs and predictions.
#include "plan/segment_placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/status.h"
#include "plan/cost.h"
#include "plan/left_out.h"
#include "plan/plan_test_models.h"
#include "plan/planner.h"
#include "plan/predict.h"
#include "plan/spare.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// `layers` layers of 10 MiB, of which 8 MiB are a feed-forward that can be cut into 8.
ModelFacts Divisible(int layers) {
  ModelFacts model = DenseModel(layers);
  for (LayerFacts& layer : model.layers) {
    layer.int8_multiplies = 10'000'000;
    layer.feed_forward_bytes = 8 * kMiB;
    layer.feed_forward_int8 = 8'000'000;
    layer.feed_forward_width = 512;
    layer.segments_max = 8;
  }
  return model;
}

/// The same with 8 experts in every layer but the first, and the feed-forward as the shared one.
ModelFacts WithSharedExperts(int layers) {
  ModelFacts model = Divisible(layers);
  model.top_k = 4;
  for (size_t l = 1; l < model.layers.size(); ++l) {
    model.layers[l].experts = 8;
    model.layers[l].expert_bytes = kMiB;
    model.layers[l].expert_multiplies = 1'000'000;
  }
  return model;
}

PlanRequest Asked(std::string_view segments, std::vector<int64_t> split = {}) {
  PlanRequest request;
  request.segments = *ParseSegmentRequest(segments);
  if (!split.empty()) {
    request.strategy = LayerStrategy::kSplit;
    request.split = std::move(split);
  }
  return request;
}

TEST(SegmentRequest, NamesNodesAndSegmentsOrSaysAllOrOff) {
  EXPECT_EQ(ParseSegmentRequest("all")->kind, SegmentRequest::Kind::kAll);
  EXPECT_EQ(ParseSegmentRequest("off")->kind, SegmentRequest::Kind::kOff);
  const auto shares = ParseSegmentRequest("coordinator=3,10.0.0.2:7001");
  ASSERT_TRUE(shares.ok()) << ToString(shares.status());
  EXPECT_THAT(shares->shares, ElementsAre(SegmentRequest::Share{"coordinator", 3},
                                          SegmentRequest::Share{"10.0.0.2:7001", 1}));
  for (const char* bad : {"", "a,,b", "a=0", "a=65", "a=x", "a=40,b=40", "a b"}) {
    EXPECT_EQ(ParseSegmentRequest(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(SegmentPlan, GoesThroughItsTextAndIsRefusedWhereItMakesNoSense) {
  const ModelFacts model = Divisible(3);
  const auto plan = MakePlan(model, Nodes({0, 0, 0}), Asked("n1=3,n2=1", {3, 0, 0}));
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_THAT(plan->segments[2], ElementsAre(NodeId{1}, NodeId{1}, NodeId{1}, NodeId{2}));
  EXPECT_THAT(plan->segments_held(NodeId{1}, LayerId{0}), ElementsAre(0, 1, 2));
  EXPECT_THAT(plan->remote_segment_holders(LayerId{0}), ElementsAre(NodeId{1}, NodeId{2}));
  const auto read = PlanFromJson(PlanToJson(*plan));
  ASSERT_TRUE(read.ok()) << ToString(read.status());
  EXPECT_EQ(*read, *plan);
  EXPECT_THAT(PlanToJson(*plan), HasSubstr(R"("segments": [
    {"layers":[0,3],"owners":{"n1":"0-2","n2":"3"}}
  ])"));

  Plan rounded = *plan;
  rounded.wire_dtype = Plan::WireDtype::kF16;
  EXPECT_THAT(Message(Validate(rounded)), HasSubstr("need exact rows"));
  Plan elsewhere = *plan;
  elsewhere.segments[1][0] = NodeId{3};
  EXPECT_THAT(Message(Validate(elsewhere)), HasSubstr("a segment of layer 1 is on node 3"));
  Plan many = *plan;
  many.segments[1].assign(9, NodeId{1});
  EXPECT_EQ(Validate(many), absl::OkStatus());
  EXPECT_THAT(Message(Validate(many, model)), HasSubstr("can have at most 8"));
  EXPECT_THAT(Message(Validate(*plan, DenseModel(3))), HasSubstr("can have none"));

  std::string text = PlanToJson(*plan);
  text.replace(text.find("0-2"), 3, "0-1");
  EXPECT_THAT(Message(PlanFromJson(text).status()), HasSubstr("segment 2 has no owner"));
}

TEST(SegmentPlan, PassesOverLayersWithoutAFeedForward) {
  ModelFacts model = Divisible(3);
  LayerFacts& mixer = model.layers[1];
  mixer.feed_forward_bytes = mixer.feed_forward_int8 = mixer.feed_forward_width = 0;
  mixer.segments_max = 0;
  EXPECT_TRUE(CanHaveSegments(model, 2));
  const auto plan = MakePlan(model, Nodes({0, 0}), Asked("n0,n1"));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->segments[0].size(), 2u);
  EXPECT_TRUE(plan->segments[1].empty());
  EXPECT_EQ(plan->segments[2].size(), 2u);
}

TEST(SegmentPlan, SharesSharedExpertsAsDenseFeedForwards) {
  const ModelFacts model = WithSharedExperts(3);
  const auto plan = MakePlan(model, Nodes({0, 0}), Asked("n0=1,n1=3", {3, 0}));
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_THAT(plan->segments[2], ElementsAre(NodeId{0}, NodeId{1}, NodeId{1}, NodeId{1}));
  EXPECT_EQ(Validate(*plan, model), absl::OkStatus());
  EXPECT_THAT(plan->notes,
              testing::Contains(HasSubstr("dense feed-forwards and shared experts have 4 segments")));
  const std::vector<NodeCost> costs = NodeCosts(*plan, model, {});
  EXPECT_EQ(costs[0].layer_bytes, 3 * 2 * kMiB);
  EXPECT_EQ(costs[0].segment_bytes, 3 * 2 * kMiB);
  EXPECT_EQ(costs[1].segment_bytes, 3 * 6 * kMiB);
  EXPECT_EQ(DecodeCost(*plan, model).segment_calls, 3 * 2);
  const auto read = PlanFromJson(PlanToJson(*plan));
  ASSERT_TRUE(read.ok()) << ToString(read.status());
  EXPECT_EQ(*read, *plan);
}

TEST(SegmentPlan, ASharedExpertOfFewerSegmentsStaysWhole) {
  ModelFacts model = WithSharedExperts(3);
  model.layers[2].segments_max = 3;
  EXPECT_TRUE(CanHaveSegments(model, 8));
  const auto plan = MakePlan(model, Nodes({0, 0}), Asked("n0=1,n1=3", {3, 0}));
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_EQ(plan->segments[0].size(), 4u);
  EXPECT_EQ(plan->segments[1].size(), 4u);
  EXPECT_TRUE(plan->segments[2].empty());
  model.layers.erase(model.layers.begin());  // No dense layer is left, and nothing that has so many.
  for (LayerFacts& layer : model.layers) layer.segments_max = 3;
  EXPECT_FALSE(CanHaveSegments(model, 4));
  const auto none = MakePlan(model, Nodes({0, 0}), Asked("n0=1,n1=3", {2, 0}));
  EXPECT_THAT(Message(none.status()), HasSubstr("it has 3 at most"));
  const auto all = MakePlan(model, Nodes({0, 0}), Asked("all", {2, 0}));
  ASSERT_TRUE(all.ok()) << ToString(all.status());
  EXPECT_EQ(all->segments[0].size(), 3u);
}

TEST(SegmentPlan, NamesWhatItCannotShare) {
  const auto error = [](const ModelFacts& model, std::string_view segments) {
    return Message(MakePlan(model, Nodes({0, 0}), Asked(segments)).status());
  };
  EXPECT_THAT(error(Divisible(2), "n0,n3"), HasSubstr("no node has the name 'n3'"));
  EXPECT_THAT(error(Divisible(2), "n0,n0"), HasSubstr("named twice"));
  EXPECT_THAT(error(Divisible(2), "n0=5,n1=5"), HasSubstr("it has 8 at most"));
  ModelFacts whole = Divisible(2);
  whole.layers[1].segments_max = 0;
  EXPECT_THAT(error(whole, "n0,n1"), HasSubstr("layer 1 of"));
  EXPECT_THAT(error(whole, "n0,n1"), HasSubstr("can't be cut"));
  EXPECT_THAT(error(whole, "all"), HasSubstr("can't be cut"));
  EXPECT_THAT(error(DenseModel(2), "n0,n1"), HasSubstr("no dense feed-forward"));
  ModelFacts experts = MoeModel(2, 8);
  experts.layers.erase(experts.layers.begin());
  EXPECT_THAT(error(experts, "n0,n1"), HasSubstr("no dense feed-forward"));
}

TEST(SegmentPlan, CountsMemoryMessagesAndBytes) {
  const ModelFacts model = Divisible(2);
  const auto plan = MakePlan(model, Nodes({0, 0}), Asked("n0=1,n1=3", {2, 0}));
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  const std::vector<NodeCost> costs = NodeCosts(*plan, model, {});
  EXPECT_EQ(costs[0].layer_bytes, 2 * 2 * kMiB);
  EXPECT_EQ(costs[0].segment_bytes, 2 * 2 * kMiB);
  EXPECT_EQ(costs[1].layer_bytes, 0);
  EXPECT_EQ(costs[1].segment_bytes, 2 * 6 * kMiB);
  const TokenCost token = DecodeCost(*plan, model);
  EXPECT_EQ(token.segment_calls, 2 * 2);
  EXPECT_EQ(token.messages(), 4);
  // There 128 and 512 values of 1.25 bytes, back three quarters of 512 such and of 128 of 4.
  EXPECT_EQ(token.bytes, 2 * static_cast<int64_t>((128 + 512) * 1.25 + 0.75 * (512 * 1.25 + 128 * 4)));
  const std::string report = PlanReport(*plan, model, {});
  EXPECT_THAT(report, HasSubstr("3 of 4 of 2 layers"));
  EXPECT_THAT(report, HasSubstr("4 segment calls"));
}

TEST(SegmentPlan, HasRoomForALayerThatNoNodeHolds) {
  ModelFacts model = Divisible(1);
  model.embed_bytes = model.head_bytes = 0;
  const auto fits = [&](PlanRequest request) {
    return MakePlan(model, Nodes({7 * kMiB, 7 * kMiB}), request);
  };
  // 10 MiB fit nowhere whole; 2 MiB and half of 8 MiB do.
  PlanRequest off = Asked("off");
  EXPECT_EQ(fits(off).status().code(), absl::StatusCode::kResourceExhausted);
  for (const LayerStrategy strategy : {LayerStrategy::kBalanced, LayerStrategy::kFastest}) {
    PlanRequest request;
    request.strategy = strategy;
    const auto plan = fits(request);
    ASSERT_TRUE(plan.ok()) << ToString(plan.status());
    EXPECT_THAT(plan->segments[0], ElementsAre(NodeId{0}, NodeId{1}));
    EXPECT_THAT(plan->notes, testing::Contains(HasSubstr("no plan with whole layers fits")));
  }
  // A strategy that says who runs what is kept.
  PlanRequest uniform;
  uniform.strategy = LayerStrategy::kUniform;
  EXPECT_EQ(fits(uniform).status().code(), absl::StatusCode::kResourceExhausted);
  // Memory decides the shares.
  const auto uneven = MakePlan(model, Nodes({9 * kMiB, 3 * kMiB}), {});
  ASSERT_TRUE(uneven.ok()) << ToString(uneven.status());
  EXPECT_THAT(uneven->segments_held(NodeId{1}, LayerId{0}).size(),
              testing::Lt(uneven->segments[0].size() / 2));
}

std::vector<NodeFacts> Measured(int count) {
  std::vector<NodeFacts> nodes = Nodes(std::vector<int64_t>(static_cast<size_t>(count), 0));
  for (NodeFacts& node : nodes) {
    node.rates = {.threads = 4, .read_gbs = 10, .int8_gops = 500, .f32_gflops = 100, .wake_us = 5};
  }
  return nodes;
}

TEST(SegmentPlan, IsFastestWhereMessagesAreCheaperThanReading) {
  ModelFacts model = Divisible(4);
  for (LayerFacts& layer : model.layers) {
    layer.bytes = 500 * kMiB;
    layer.feed_forward_bytes = 400 * kMiB;
  }
  PlanRequest request;
  request.strategy = LayerStrategy::kFastest;
  request.objective = Objective::kLatency;
  request.links = {{.a = "n0", .b = "n1", .rtt_us = 200, .mbs = 110}};
  const auto shared = MakePlan(model, Measured(2), request);
  ASSERT_TRUE(shared.ok()) << ToString(shared.status());
  EXPECT_FALSE(shared->segments.empty());
  EXPECT_THAT(shared->notes, testing::Contains(HasSubstr("since that is faster")));
  // Two exchanges of 60 ms are not paid back by half of a feed-forward that is read in 42 ms.
  request.links[0].rtt_us = 60'000;
  const auto whole = MakePlan(model, Measured(2), request);
  ASSERT_TRUE(whole.ok()) << ToString(whole.status());
  EXPECT_TRUE(whole->segments.empty());
}

TEST(SegmentPlan, IsPredictedAsTwoExchanges) {
  ModelFacts model = Divisible(1);
  const std::vector<NodeFacts> nodes = Measured(2);
  const std::vector<LinkFacts> links = {{.a = "n0", .b = "n1", .rtt_us = 1000, .mbs = 0}};
  const auto whole = MakePlan(model, nodes, Asked("off", {1, 0}));
  const auto there = MakePlan(model, nodes, Asked("n1", {1, 0}));
  ASSERT_TRUE(whole.ok() && there.ok());
  const PlanLoad load = DecodeLoad(1, 0);
  const auto alone = Machines::Of(*whole, nodes, links);
  const auto both = Machines::Of(*there, nodes, links);
  ASSERT_TRUE(alone.ok() && both.ok());
  const double before_s = Predictor(*whole, model, *alone).step(load).latency_s();
  const StepTime time = Predictor(*there, model, *both).step(load);
  // As much is read, on another node, and two round trips come on top.
  EXPECT_NEAR(time.latency_s() - before_s, 2 * 1e-3, 0.5e-3);
  EXPECT_GT(time.nodes[1].serve_s, 8e6 / 10e9);
}

TEST(SegmentPlan, SharedExpertsAreAskedWhileRowsAreWithExperts) {
  ModelFacts model = WithSharedExperts(2);
  model.layers.erase(model.layers.begin());
  const std::vector<NodeFacts> nodes = Measured(2);
  const std::vector<LinkFacts> links = {{.a = "n0", .b = "n1", .rtt_us = 1000, .mbs = 0}};
  const auto latency_s = [&](std::string_view segments, ExpertStrategy experts) {
    PlanRequest request = Asked(segments, {1, 0});
    request.experts.strategy = experts;
    const auto plan = MakePlan(model, nodes, request);
    SHOAL_CHECK(plan.ok());
    const auto machines = Machines::Of(*plan, nodes, links);
    SHOAL_CHECK(machines.ok());
    return Predictor(*plan, model, *machines).step(DecodeLoad(1, 0)).latency_s();
  };
  const double alone_s = latency_s("off", ExpertStrategy::kWithLayer);
  const double experts_s = latency_s("off", ExpertStrategy::kRoundRobin) - alone_s;
  const double segments_s = latency_s("n1", ExpertStrategy::kWithLayer) - alone_s;
  const double both_s = latency_s("n1", ExpertStrategy::kRoundRobin) - alone_s;
  EXPECT_GT(segments_s, 2e-3);
  EXPECT_LT(both_s, segments_s + experts_s / 2);
  EXPECT_GT(both_s, segments_s / 2);
}

TEST(SegmentPlan, WaitsForAHolderThatWasNamed) {
  const std::vector<NodeFacts> nodes = Nodes({0, 0, 0});
  const auto plan = MakePlan(Divisible(2), nodes, Asked("n0,n1", {2, 0, 0}));
  ASSERT_TRUE(plan.ok()) << ToString(plan.status());
  EXPECT_FALSE(ServesWithout(*plan, {false, true}));
  const std::vector<bool> out = {false, true, false};
  const auto waits = WithoutNodes(nodes, Asked("n0,n1"), out, ReplanAs::kAsked);
  EXPECT_THAT(Message(waits.status()), HasSubstr("node 'n1' is to hold 1 segments"));
  EXPECT_EQ(WithoutNodes(nodes, Asked("n0,n1"), out, ReplanAs::kBalanced)->request.segments.kind,
            SegmentRequest::Kind::kWherePays);
  EXPECT_EQ(WithoutNodes(nodes, Asked("all"), out, ReplanAs::kAsked)->request.segments.kind,
            SegmentRequest::Kind::kAll);
}

TEST(SegmentPlacement, OnlyNodesWithoutAKnownNameAreCalledAsAShareCallsThem) {
  std::vector<NodeFacts> nodes = Nodes({0, 0, 0});
  nodes[1].name = nodes[1].address = "10.0.0.2:7001";  // Of --workers.
  nodes[2].address = "10.0.0.3:7001";                  // Of a cluster file, which names it.
  const SegmentRequest request = *ParseSegmentRequest("n0,mini1,mini2");
  NameAsShares(request, nodes);
  EXPECT_EQ(nodes[0].name, "n0");
  EXPECT_EQ(nodes[1].name, "mini1");
  EXPECT_EQ(nodes[2].name, "n2");
  const auto placed =
      PlaceSegments(Divisible(2), nodes, request, std::vector<bool>(nodes.size(), true)).status();
  EXPECT_THAT(Message(placed), HasSubstr("no node has the name 'mini2'"));
}

}  // namespace
}  // namespace shoal
