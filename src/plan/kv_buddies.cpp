#include "plan/kv_buddies.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "base/check.h"

namespace shoal {
namespace {

/// Two nodes are on one machine where the hosts of their addresses are the same; the coordinator's is not known here.
std::string_view HostOf(const std::string& address) {
  return std::string_view(address).substr(0, address.rfind(':'));
}

}  // namespace

std::vector<KvBuddy> ChooseBuddies(const Plan& plan, std::span<const BuddyFacts> facts, int64_t each_max) {
  SHOAL_CHECK_EQ(facts.size(), plan.nodes.size());
  std::vector<int64_t> spare;
  for (const BuddyFacts& node : facts) spare.push_back(node.spare_bytes);
  std::vector<KvBuddy> buddies;
  for (const PlanStage& stage : plan.stages) {
    const auto of = static_cast<size_t>(stage.node.value);
    const int64_t wanted = std::min(facts[of].cache_bytes, each_max);
    if (stage.node == Plan::kCoordinator || wanted <= 0) continue;
    const auto rank = [&](size_t node) {
      const bool elsewhere = HostOf(plan.nodes[node].address) != HostOf(plan.nodes[of].address);
      const bool idle = plan.layers_of(NodeId{static_cast<int32_t>(node)}).empty();
      return std::tuple(elsewhere, std::min(spare[node], wanted), idle);
    };
    std::optional<size_t> best;
    for (size_t node = 0; node < spare.size(); ++node) {
      if (node == of || spare[node] <= 0) continue;
      if (!best.has_value() || rank(node) > rank(*best)) best = node;
    }
    if (!best.has_value()) continue;
    const int64_t bytes = std::min(spare[*best], wanted);
    spare[*best] -= bytes;
    buddies.push_back({stage.node, NodeId{static_cast<int32_t>(*best)}, bytes});
  }
  return buddies;
}

}  // namespace shoal
