#include "plan/spare.h"

#include <algorithm>

namespace shoal {

bool ServesWithout(const Plan& plan, const std::vector<bool>& lost) {
  const auto gone = [&lost](NodeId node) { return lost[static_cast<size_t>(node.value)]; };
  if (gone(Plan::kCoordinator)) return false;
  if (std::ranges::any_of(plan.stages, gone, &PlanStage::node)) return false;
  const auto any_gone = [&](const std::vector<NodeId>& holders) {
    return std::ranges::any_of(holders, gone);
  };
  if (std::ranges::any_of(plan.segments, any_gone)) return false;
  const bool rounds = plan.wire_dtype != Plan::WireDtype::kExact;
  return std::ranges::none_of(plan.experts, [&](const std::vector<ExpertHolders>& layer) {
    return std::ranges::any_of(layer, [&](const ExpertHolders& holders) {
      return gone(holders.owner) && (rounds || std::ranges::all_of(holders.replicas, gone));
    });
  });
}

}  // namespace shoal
