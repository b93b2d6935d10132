// Segments of dense feed-forwards and shared experts on other nodes change no bit, and a holder that is lost ends the session as any node
// with layers would.
#include "compute/segments.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "convert/testing/checkpoints.h"
#include "measure/logits_probe.h"
#include "placement/running_plan.h"
#include "plan/planner.h"

namespace shoal {
namespace {

struct Subject {
  std::string name;
  std::string family;
  std::optional<AffineFormat> format;
};

/// Dense families with silu, gelu and a fused gate_up; families with experts behind a dense layer, with shared experts, also
/// behind a gate of their own or as a branch; of floats and of codes.
std::vector<Subject> Subjects() {
  std::vector<Subject> subjects;
  for (const char* family :
       {"qwen3", "llama", "gemma3_text", "phi3", "qwen2", "deepseek_v3", "glm4_moe", "apertus", "nemotron_h",
        "starcoder2", "nanochat", "qwen2_moe", "gemma4_text", "falcon_h1"}) {
    subjects.push_back({fmt::format("{}_4bit", family), family, AffineFormat{4, 64}});
  }
  subjects.push_back({"qwen3_bf16", "qwen3", std::nullopt});
  subjects.push_back({"phi3_bf16", "phi3", std::nullopt});
  subjects.push_back({"qwen2_moe_bf16", "qwen2_moe", std::nullopt});
  return subjects;
}

struct Way {
  std::vector<int64_t> split;  ///< Layers per node; -1: the rest.
  std::string segments;
  int64_t chunk = 70;
  int threads = 1;
  TransportKind transport = TransportKind::kInproc;
};

class SegmentPlacement : public testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    auto model = OpenModel(TinyCheckpoint(GetParam().family, GetParam().format));
    ASSERT_TRUE(model.ok()) << ToString(model.status());
    model_ = std::move(*model);
  }

  Plan plan(const Way& way) const {
    PlanRequest request;
    request.strategy = LayerStrategy::kSplit;
    request.split = way.split;
    int64_t left = std::ssize(model_.facts.layers);
    for (const int64_t count : way.split) left -= std::max<int64_t>(count, 0);
    for (int64_t& count : request.split) count = count < 0 ? left : count;
    if (model_.facts.has_experts() && way.split.size() > 1)
      request.experts.strategy = ExpertStrategy::kRoundRobin;
    if (!way.segments.empty()) request.segments = *ParseSegmentRequest(way.segments);
    std::vector<NodeFacts> nodes;
    for (size_t i = 0; i < way.split.size(); ++i) nodes.push_back({.name = fmt::format("node-{}", i)});
    const absl::StatusOr<Plan> made = MakePlan(model_.facts, nodes, request);
    EXPECT_TRUE(made.ok()) << ToString(made.status());
    return *made;
  }

  absl::StatusOr<ProbeResult> probe(const Way& way) const {
    LocalCluster::Options options = OptionsFor(model_, plan(way));
    options.threads_per_node = way.threads;
    options.transport = way.transport;
    RunningPlan running(std::move(options));
    return ProbeLogits(
        running.engine(),
        {.ids = RandomPrompt(model_, 0, 70), .greedy = 5, .chunk = way.chunk, .routing = true});
  }

  OpenedModel model_;
};

TEST_P(SegmentPlacement, GivesTheBitsOfOneNode) {
  const auto one_node = probe({{-1}, ""});
  ASSERT_TRUE(one_node.ok()) << ToString(one_node.status());
  const std::vector<Way> ways = {
      {{-1}, "node-0=3"},                                         // Cut, and all here.
      {{-1, 0}, "node-0,node-1", 7},                              // Half of each layer elsewhere.
      {{-1, 0, 0}, "node-1=1,node-2=2", 64, 2, kOtherTransport},  // Nothing where the layers are.
      {{2, -1, 0}, "node-2=1,node-0=3,node-1=1", 1, 3},           // Each other's, beside stages.
      {{2, -1}, "all", 33, 2, kOtherTransport},
  };
  for (size_t i = 0; i < ways.size(); ++i) {
    const auto got = probe(ways[i]);
    ASSERT_TRUE(got.ok()) << i << ": " << ToString(got.status());
    EXPECT_TRUE(SameBits(got->logits, one_node->logits)) << i;
    EXPECT_EQ(got->greedy, one_node->greedy) << i;
    EXPECT_EQ(got->routing, one_node->routing) << i;
  }
}

TEST_P(SegmentPlacement, LoadsOnlyTheSegmentsThatANodeHolds) {
  const Plan divided = plan({{-1, 0}, "node-0=1,node-1=2"});
  const auto cluster = LocalCluster::Load(OptionsFor(model_, divided));
  ASSERT_TRUE(cluster.ok()) << ToString(cluster.status());
  int64_t dense = 0;
  for (size_t l = 0; l < divided.segments.size(); ++l)
    dense += divided.segments[l].empty() ? 0 : model_.facts.layers[l].feed_forward_bytes;
  ASSERT_GT(dense, 0);
  for (const int32_t node : {0, 1}) {
    const NodeShard shard = ShardOf(divided, NodeId{node});
    const int64_t said = ShardBytes(model_.spec, model_.footprint, shard);
    // Of the segments said as if any cut were possible; they are cut at groups and tiles.
    EXPECT_NEAR(static_cast<double>((*cluster)->model(NodeId{node}).bytes()), static_cast<double>(said),
                0.1 * static_cast<double>(dense));
    EXPECT_LT(said,
              ShardBytes(model_.spec, model_.footprint, ShardOf(plan({{-1}, ""}), NodeId{0})) - dense / 4);
  }
}

TEST_P(SegmentPlacement, SharedExpertsHaveThemToo) {
  const Plan divided = plan({{-1, 0}, "node-0=1,node-1=2"});
  for (size_t l = 0; l < divided.segments.size(); ++l) {
    EXPECT_EQ(divided.segments[l].size(), SharedByAllRows(model_.spec.layers[l]) == nullptr ? 0u : 3u) << l;
  }
}

TEST_P(SegmentPlacement, AHolderThatIsLostEndsTheSessionByName) {
  const Plan divided = plan({{-1, 0}, "node-0,node-1"});
  LocalCluster::Options options = OptionsFor(model_, divided);
  std::atomic<int> passed = 0;
  Transport* cut_off = nullptr;
  options.hook = [&](LayerId, MatView<const float>) {
    if (passed++ == 0) cut_off->close();
  };
  const auto cluster = LocalCluster::Load(std::move(options));
  ASSERT_TRUE(cluster.ok()) << ToString(cluster.status());
  PipelineEngine engine(kLocalLiveness);
  ASSERT_EQ((*cluster)->open(divided, engine), absl::OkStatus());
  cut_off = (*cluster)->transport(NodeId{1});
  const auto result = ProbeLogits(engine, {.ids = RandomPrompt(model_, 0, 40), .greedy = 4});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << ToString(result.status());
  EXPECT_NE(Message(result.status()).find("node-1"), std::string::npos) << ToString(result.status());
  (*cluster)->close(engine, Cancelled("done"));
}

INSTANTIATE_TEST_SUITE_P(Families, SegmentPlacement, testing::ValuesIn(Subjects()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace shoal
