#include "plan/cost.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/check.h"
#include "plan/rounding.h"
#include "plan/segment_placement.h"

namespace shoal {

namespace {

void LeaveOnDisk(const Plan& plan, std::span<const NodeFacts> nodes, std::vector<NodeCost>& costs) {
  for (const NodeFacts& node : nodes) {
    const std::optional<NodeId> id = plan.find_node(node.name);
    if (node.expert_memory_bytes == 0 || !id.has_value()) continue;
    NodeCost& cost = costs[static_cast<size_t>(id->value)];
    cost.expert_disk_bytes = std::max<int64_t>(0, cost.expert_bytes - node.expert_memory_bytes);
    cost.expert_bytes -= cost.expert_disk_bytes;
  }
}

/// Rows and hidden values there, hidden values and outputs back.
void AddSegmentCalls(const Plan& plan, const ModelFacts& model, LayerId layer, TokenCost& cost) {
  const std::span<const NodeId> owners = plan.segment_owners(layer);
  if (owners.empty()) return;
  const NodeId home = plan.node_of(layer);
  const LayerFacts& facts = model.layers[static_cast<size_t>(layer.value)];
  const double each = SegmentValueBytes(facts, plan.activations == Plan::Activations::kInt8);
  const auto width = static_cast<double>(facts.feed_forward_width);
  const auto hidden = static_cast<double>(model.hidden);
  const auto remote = std::ssize(plan.remote_segment_holders(layer));
  const auto away = std::ranges::count_if(owners, [&](NodeId owner) { return owner != home; });
  const double share = static_cast<double>(away) / static_cast<double>(owners.size());
  cost.segment_calls += 2 * remote;
  cost.bytes += static_cast<int64_t>(
      std::ceil(static_cast<double>(remote) * (hidden + width) * each + share * (width * each + hidden * 4)));
}

}  // namespace

double DiskBytesPerToken(const Plan& plan, const ModelFacts& model, NodeId node, const NodeCost& cost) {
  if (cost.expert_disk_bytes == 0) return 0;
  double wanted = 0;
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    const LayerFacts& facts = model.layers[static_cast<size_t>(layer)];
    if (facts.experts == 0) continue;
    // Of one that others hold, too, this node may be asked for none.
    const auto held = static_cast<double>(plan.experts_held(node, LayerId{layer}).size());
    wanted +=
        std::min(model.top_k, facts.experts) * held / facts.experts * static_cast<double>(facts.expert_bytes);
  }
  return wanted * static_cast<double>(cost.expert_disk_bytes) /
         static_cast<double>(cost.expert_disk_bytes + cost.expert_bytes);
}

std::vector<NodeCost> NodeCosts(const Plan& plan, const ModelFacts& model, const CacheSize& cache,
                                std::span<const NodeFacts> nodes) {
  SHOAL_CHECK_EQ(plan.layers(), std::ssize(model.layers));
  std::vector<NodeCost> costs(plan.nodes.size());
  const auto of = [&](NodeId id) -> NodeCost& { return costs[static_cast<size_t>(id.value)]; };
  for (const PlanStage& stage : plan.stages) {
    for (int64_t layer = stage.layers.begin; layer < stage.layers.end; ++layer) {
      const LayerFacts& facts = model.layers[static_cast<size_t>(layer)];
      const bool whole = plan.segment_owners(LayerId{static_cast<int32_t>(layer)}).empty();
      of(stage.node).layer_bytes += whole ? facts.bytes : WithoutFeedForward(facts).bytes;
      of(stage.node).kv_bytes += KvBytesPerPosition(facts, plan.kv_dtype) * cache.positions;
      of(stage.node).state_bytes +=
          facts.state_bytes * StateSlotsPerSequence(std::ssize(plan.stages)) * cache.sequences;
    }
  }
  const std::vector<int64_t> segments = SegmentBytesOf(plan, model);
  for (size_t i = 0; i < costs.size(); ++i) costs[i].segment_bytes = segments[i];
  for (size_t layer = 0; layer < plan.experts.size(); ++layer) {
    for (const ExpertHolders& holders : plan.experts[layer]) {
      of(holders.owner).expert_bytes += model.layers[layer].expert_bytes;
      for (const NodeId replica : holders.replicas)
        of(replica).expert_bytes += model.layers[layer].expert_bytes;
    }
  }
  LeaveOnDisk(plan, nodes, costs);
  of(plan.first_node()).embedding_head_bytes += model.embed_bytes;
  if (plan.last_node() != plan.first_node() || !model.tied_head)
    of(plan.last_node()).embedding_head_bytes += model.head_bytes;
  if (!plan.mtp) return costs;
  SHOAL_CHECK(model.mtp.has_value());
  NodeCost& last = of(plan.last_node());
  last.embedding_head_bytes += model.mtp->bytes;
  if (plan.last_node() != plan.first_node()) last.embedding_head_bytes += model.mtp_embed_bytes();
  last.kv_bytes += KvBytesPerPosition(*model.mtp, plan.kv_dtype) * cache.positions;
  return costs;
}

TokenCost DecodeCost(const Plan& plan, const ModelFacts& model) {
  SHOAL_CHECK_EQ(plan.layers(), std::ssize(model.layers));
  constexpr int64_t kIdBytes = 4;
  constexpr int64_t kRoutingBytes = 4 + 4;  // Expert id and weight.
  const auto of_values = [](int64_t values, double value_bytes) {
    return static_cast<int64_t>(std::ceil(static_cast<double>(values) * value_bytes));
  };
  const int64_t row_bytes = of_values(model.hidden, RowValueBytes(plan.wire_dtype));
  const int64_t sums_bytes = of_values(model.hidden, SumValueBytes(plan.wire_dtype));
  TokenCost cost;
  if (plan.first_node() != Plan::kCoordinator) {
    ++cost.hops;
    cost.bytes += kIdBytes;
  }
  cost.hops += std::ssize(plan.stages) - 1;
  cost.bytes +=
      (std::ssize(plan.stages) - 1) * static_cast<int64_t>(std::ceil(StageRowBytes(model, plan.wire_dtype)));
  for (int32_t layer = 0; layer < plan.layers(); ++layer) {
    const int64_t owners = std::ssize(plan.remote_owners(LayerId{layer}));
    const int64_t calls = std::min<int64_t>(owners, model.top_k);
    cost.expert_calls += calls;
    cost.bytes += calls * (row_bytes + sums_bytes);
    if (calls > 0) cost.bytes += model.top_k * kRoutingBytes;
    AddSegmentCalls(plan, model, LayerId{layer}, cost);
  }
  if (plan.last_node() != Plan::kCoordinator) {
    ++cost.results;
    cost.bytes += kIdBytes;
  }
  return cost;
}

}  // namespace shoal
