// Nodes that have only some of their experts in memory compute the same bits together as one that has all: every family
// with experts, on one node and several, in prefill and decode.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "measure/logits_probe.h"
#include "placement/placed_cluster.h"
#include "placement/running_plan.h"

namespace shoal {
namespace {

constexpr int64_t kGreedy = 6;

struct Memory {
  int64_t experts = 0;  ///< Bytes; 0: all.
  std::shared_ptr<const PackedCache> cache;
};

/// Bytes of the model's largest expert, with room for the alignment of its parts.
int64_t LargestExpert(const OpenedModel& model) {
  int64_t bytes = 0;
  for (const LayerFacts& layer : model.facts.layers) bytes = std::max(bytes, layer.expert_bytes + 3 * 64);
  return bytes;
}

class Running : public RunningPlan {
 public:
  Running(const OpenedModel& model, const Placed& placed, const Memory& memory)
      : RunningPlan(options_for(model, placed, memory)) {}

  /// `chunk` as ProbeRequest's.
  ProbeResult run(const std::vector<int32_t>& ids, int64_t chunk) {
    const auto result =
        ProbeLogits(engine(), {.ids = ids, .greedy = kGreedy, .chunk = chunk, .first_step = next_step_});
    EXPECT_TRUE(result.ok()) << ToString(result.status());
    if (!result.ok()) return {};
    next_step_ = result->next_step;
    return *result;
  }
  ExpertTierStats stats() const {
    ExpertTierStats sum;
    for (const NodeHost::NodeReport& node : cluster().host().report()) {
      if (node.expert_tier.has_value()) sum = sum + *node.expert_tier;
    }
    return sum;
  }

 private:
  static LocalCluster::Options options_for(const OpenedModel& model, const Placed& placed,
                                           const Memory& memory) {
    LocalCluster::Options options = OptionsFor(model, PlanFor(placed, model.facts));
    options.threads_per_node = 2;
    options.expert_memory = memory.experts;
    options.packed_cache = memory.cache;
    return options;
  }

  StepId next_step_{1};
};

void ExpectSameBits(const ProbeResult& a, const ProbeResult& b) {
  EXPECT_TRUE(SameBits(a.logits, b.logits));
  EXPECT_EQ(a.greedy, b.greedy);
}

class ExpertMemoryPlacement : public ::testing::TestWithParam<std::string> {};

TEST_P(ExpertMemoryPlacement, FewExpertsInMemoryGiveTheBitsOfAll) {
  const auto model = OpenModel(TinyCheckpoint(GetParam(), AffineFormat{4, 64}));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  const std::vector<int32_t> prompt = RandomPrompt(*model, 9, 50);
  const ProbeResult expected = Running(*model, Placements()[0], {}).run(prompt, 0);
  const TempFolder folder;
  const auto cache =
      std::make_shared<const PackedCache>(PackedCache::Options{folder.path(), int64_t{1} << 30});
  const int64_t one = LargestExpert(*model);
  struct Way {
    int placement;
    int64_t experts;
    bool cached;
    int64_t chunk;
  };
  for (const Way& way :
       {Way{0, 1, true, 7}, Way{1, model->facts.top_k, true, 16}, Way{2, 3, false, 0}, Way{3, 4, true, 0}}) {
    SCOPED_TRACE(fmt::format("{}, memory of {} experts, {}, chunks of {}", Placements()[way.placement].name,
                             way.experts, way.cached ? "cached" : "not cached", way.chunk));
    Running running(*model, Placements()[way.placement], {way.experts * one, way.cached ? cache : nullptr});
    ExpectSameBits(running.run(prompt, way.chunk), expected);
    const ExpertTierStats stats = running.stats();
    EXPECT_GT(stats.misses, 0);
    EXPECT_GT(stats.bytes_read, stats.resident_bytes);
    if (!way.cached) {  // A checkpoint that was made within two seconds is not cached either.
      EXPECT_GT(stats.packed_again, 0);
    }
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ExpertMemoryPlacement, testing::ValuesIn(FamiliesPerExperts()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace shoal
