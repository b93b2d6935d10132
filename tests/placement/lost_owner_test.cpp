// A node that holds nothing but experts is lost in the middle of a step: others that hold them compute on, and the
// bits are those of one node.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "convert/testing/checkpoints.h"
#include "measure/logits_probe.h"
#include "placement/placed_cluster.h"
#include "placement/running_plan.h"

namespace shoal {
namespace {

/// Layers on the first two nodes, or on the first alone, and each expert on two of four nodes.
Plan WithReplicas(const ModelFacts& model, bool one_stage) {
  PlanRequest request;
  request.strategy = LayerStrategy::kSplit;
  const auto layers = static_cast<int64_t>(model.layers.size());
  request.split = {one_stage ? layers : 1, one_stage ? 0 : layers - 1, 0, 0};
  request.experts = {.strategy = ExpertStrategy::kRoundRobin, .replicas = 1};
  std::vector<NodeFacts> nodes;
  for (int i = 0; i < 4; ++i) nodes.push_back({.name = fmt::format("node-{}", i)});
  const absl::StatusOr<Plan> plan = MakePlan(model, nodes, request);
  SHOAL_CHECK(plan.ok());
  return *plan;
}

class LostOwner : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto model = OpenModel(TinyCheckpoint(GetParam(), AffineFormat{4, 64}));
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
    request_.ids = RandomPrompt(model_, 0, 40);
  }

  /// lose_at: after so many layers, over all nodes, node 3 is cut off; -1: never.
  ProbeResult probe(const Plan& plan, TransportKind transport, int lose_at) {
    LocalCluster::Options options = OptionsFor(model_, plan);
    options.transport = transport;
    std::atomic<int> passed = 0;
    Transport* cut_off = nullptr;
    options.hook = [&](LayerId, MatView<const float>) {
      if (passed++ == lose_at) cut_off->close();
    };
    const auto cluster = LocalCluster::Load(std::move(options));
    SHOAL_CHECK(cluster.ok());
    PipelineEngine engine(kLocalLiveness);
    SHOAL_CHECK((*cluster)->open(plan, engine).ok());
    if (plan.nodes.size() == 4) cut_off = (*cluster)->transport(NodeId{3});
    const auto result = ProbeLogits(engine, request_);
    EXPECT_TRUE(result.ok()) << ToString(result.status());
    if (lose_at >= 0) {
      EXPECT_GT(passed, lose_at);
      // The last steps may end before this node hears of it.
      const Deadline deadline = Deadline::after_ms(10'000);
      while (engine.lost().empty() && !deadline.expired()) std::this_thread::yield();
      EXPECT_TRUE(engine.state().status.ok()) << ToString(engine.state().status);
      EXPECT_EQ(engine.lost().size(), 1u);
    }
    (*cluster)->close(engine, Cancelled("done"));
    return result.value_or(ProbeResult());
  }

  OpenedModel model_;
  ProbeRequest request_{.greedy = 4, .chunk = 16, .routing = true};
};

TEST_P(LostOwner, ChangesNoBitWheneverItIsLost) {
  const ProbeResult alone =
      probe(*MakePlan(model_.facts, {{.name = "alone"}}, {}), TransportKind::kInproc, -1);
  ASSERT_FALSE(alone.logits.empty());
  const std::vector<TransportKind> transports = {TransportKind::kInproc, kOtherTransport};
  for (const int lose_at : {0, 3, 7, 10}) {
    const bool one_stage = lose_at % 2 == 0;
    const ProbeResult got = probe(WithReplicas(model_.facts, one_stage),
                                  transports[static_cast<size_t>(lose_at / 4 % 2)], lose_at);
    EXPECT_EQ(got.logits, alone.logits) << "lost after layer " << lose_at;
    EXPECT_EQ(got.greedy, alone.greedy) << "lost after layer " << lose_at;
    EXPECT_EQ(got.routing, alone.routing) << "lost after layer " << lose_at;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, LostOwner, testing::ValuesIn(FamiliesPerExperts()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace shoal
