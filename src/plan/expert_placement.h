// Places experts on nodes, for each strategy of planner.h. Private to plan/.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"
#include "plan/plan.h"
#include "plan/planner.h"

namespace shoal {

struct ExpertPlacement {
  std::vector<std::vector<ExpertHolders>> experts;  ///< [L][E]; node ids are indices into the facts.
  std::string note;                                 ///< The explanation, for Plan::notes.
};

/// stages: used by kWithLayer only. The strategies by use are PlaceByUse's (placed_by_use.h). Returns InvalidArgument if the request does not fit the nodes or the
/// model.
absl::StatusOr<ExpertPlacement> PlaceExperts(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                             const ExpertRequest& request,
                                             const std::vector<PlanStage>& stages);

/// Drops nodes without layers and experts, except the coordinator, and renumbers the others; a note names each.
void DropIdleNodes(Plan& plan);

}  // namespace shoal
