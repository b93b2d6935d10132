// Nodes that have only some of their experts in memory compute the same bits together as one that has all: every family
// with experts, on one node and several, in prefill and decode.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "cluster/local_cluster.h"
#include "convert/testing/checkpoints.h"
#include "formats/config.h"
#include "measure/logits_probe.h"
#include "models/family.h"
#include "placement/placed_cluster.h"

namespace shoal {
namespace {

constexpr int64_t kGreedy = 6;

std::vector<int32_t> Prompt(const OpenedModel& model) {
  RandomStream random(9);
  std::vector<int32_t> ids;
  for (int i = 0; i < 50; ++i) {
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(model.spec.vocabulary))));
  }
  return ids;
}

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

class Running {
 public:
  Running(const OpenedModel& model, const Placed& placed, const Memory& memory) {
    LocalCluster::Options options;
    options.weights = model.weights;
    options.plan = PlanFor(placed, model.facts);
    options.limits = {model.spec.max_positions, model.spec.vocabulary, 64, 512,
                      KeepsState(model.spec) ? 32 : 0};
    options.threads_per_node = 2;
    options.isa = SupportedIsas().back();
    options.expert_memory = memory.experts;
    options.packed_cache = memory.cache;
    auto cluster = LocalCluster::Load(std::move(options));
    EXPECT_TRUE(cluster.ok()) << ToString(cluster.status());
    if (!cluster.ok()) return;
    cluster_ = std::move(*cluster);
    const absl::Status opened = cluster_->open(cluster_->plan(), engine_);
    EXPECT_TRUE(opened.ok()) << ToString(opened);
  }
  ~Running() {
    if (cluster_ != nullptr) cluster_->close(engine_, Cancelled("done"));
  }

  /// `chunk` as ProbeRequest's.
  ProbeResult run(const std::vector<int32_t>& ids, int64_t chunk) {
    const auto result =
        ProbeLogits(engine_, {.ids = ids, .greedy = kGreedy, .chunk = chunk, .first_step = next_step_});
    EXPECT_TRUE(result.ok()) << ToString(result.status());
    if (!result.ok()) return {};
    next_step_ = result->next_step;
    return *result;
  }
  ExpertTierStats stats() const {
    ExpertTierStats sum;
    for (const NodeHost::NodeReport& node : cluster_->host().report()) {
      if (node.expert_tier.has_value()) sum = sum + *node.expert_tier;
    }
    return sum;
  }

 private:
  PipelineEngine engine_{kLocalLiveness};
  std::unique_ptr<LocalCluster> cluster_;
  StepId next_step_{1};
};

void ExpectSameBits(const ProbeResult& a, const ProbeResult& b) {
  ASSERT_EQ(a.logits.size(), b.logits.size());
  EXPECT_EQ(std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)), 0);
  EXPECT_EQ(a.greedy, b.greedy);
}

class ExpertMemoryPlacement : public ::testing::TestWithParam<std::string> {};

TEST_P(ExpertMemoryPlacement, FewExpertsInMemoryGiveTheBitsOfAll) {
  const auto model = OpenModel(TinyCheckpoint(GetParam(), AffineFormat{4, 64}));
  ASSERT_TRUE(model.ok()) << ToString(model.status());
  const std::vector<int32_t> prompt = Prompt(*model);
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

std::vector<std::string> FamiliesWithExperts() {
  std::vector<std::string> names;
  for (const Family* family : Families()) {
    const ModelSpec spec = *family->spec(*ModelConfig::Parse(family->tiny(), "tiny"));
    const bool has_experts =
        std::ranges::any_of(spec.layers, [](const LayerSpec& layer) { return MoeOf(layer) != nullptr; });
    if (has_experts) names.emplace_back(family->model_type);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Families, ExpertMemoryPlacement, testing::ValuesIn(FamiliesWithExperts()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace shoal
