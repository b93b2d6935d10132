// Owners and copies of experts by how they were used: the strategies "by_load" and "by_locality", and replicas of hot
// experts in spare memory. Works on a plan that is there and fits. Private to plan/, but for tests.
#pragma once

#include <optional>
#include <vector>

#include "base/status.h"
#include "plan/expert_stats.h"
#include "plan/facts.h"
#include "plan/plan.h"
#include "plan/planner.h"

namespace shoal {

/// Whether the request asks for what this file does.
bool PlacesByUse(const ExpertRequest& request);

/// The requests whose plans to begin with, the preferred one first, for such a request: with experts placed without use,
/// and without hot replicas.
std::vector<PlanRequest> BeginningsByUse(const PlanRequest& request);

/// Gives the plan of a BeginningsByUse() the owners and replicas that `request` asks for. Its stages stay. What a node
/// holds fits its memory as in `plan`. Without statistics the owners stay, and a note says so.
/// ResourceExhausted: there is no room for as many replicas of every expert as were asked for.
absl::StatusOr<Plan> PlaceByUse(const ModelFacts& model, const std::vector<NodeFacts>& nodes,
                                const PlanRequest& request, Plan plan);

/// What a decode step sends for experts, as expected from the statistics: each row by itself.
struct ExpertTraffic {
  double messages_per_token =
      0;  ///< To other nodes, a request and its reply as one; over all layers with a sample.
  /// The share of (row, layer) pairs whose experts were all on the node that runs the layer.
  double local_share = 0;
  /// The busiest node's work, in rows x bytes / rate, over that of a perfect division; the mean of all layers. 1 is best.
  double imbalance = 0;
  int64_t copies = 0;  ///< Replicas, over all layers.
};
/// Nothing where the statistics have no sample of any layer. CHECKs that both are of one model.
std::optional<ExpertTraffic> ExpectedTraffic(const Plan& plan, const std::vector<NodeFacts>& nodes,
                                             const ExpertStats& stats);

}  // namespace shoal
