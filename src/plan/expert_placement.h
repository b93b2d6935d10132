// Who holds which expert, for each strategy of planner.h. Private to plan/.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"
#include "plan/plan.h"
#include "plan/planner.h"

namespace shoal {

struct ExpertPlacement {
  std::vector<std::vector<ExpertHolders>> experts;  ///< [L][E]; ids are indices of the facts.
  std::string note;                                 ///< Why, for Plan::notes.
};

/// `stages` is read by kWithLayer only. InvalidArgument where the request does not suit nodes or model.
absl::StatusOr<ExpertPlacement> PlaceExperts(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                             const ExpertRequest& request,
                                             const std::vector<PlanStage>& stages);

}  // namespace shoal
