// What a coordinator knows of its cluster: facts gathered from members before planning, and the JSON of
// /cluster/status.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "app/command.h"
#include "cluster/remote_cluster.h"
#include "cluster/replanner.h"
#include "cluster/supervisor.h"
#include "exec/pipeline_engine.h"
#include "plan/compare.h"

namespace shoal {

/// Fills in what the placement does not say of this machine, its first node. `memory` as of --memory, may be
/// empty. profile: where it is to be measured, as for plans over several nodes, if the flags want it; else nullptr.
absl::Status DescribeThisNode(Placement& placement, const ComputeFlags& compute, const std::string& memory,
                              const ProfileFlags* profile);

/// Fills in what a declaration leaves open with what the members say of themselves; names are theirs. Both in
/// the same order; one that has said nothing stays as it is declared.
void ApplyFacts(const std::vector<MemberStatus>& members, std::vector<NodeFacts>& nodes);

/// What the planner knows of the nodes.
struct PlannedNodes {
  std::vector<NodeFacts> facts;
  std::vector<LeftOutMember> left_out;
  std::optional<Supervisor::Move> move;  ///< To another plan.
  absl::StatusOr<Predicted> predicted;   ///< Of the plan in use; an error says why there is nothing.
  std::vector<LinkFacts> links;          ///< Those that were measured.
};

/// {"status", "degraded", "error", "generation", "model": {...}, "cache": {...}, "nodes": [{"name", "state", "error",
/// "layers", "experts", ...}], "plan": [...]}. "error" is why the cluster is not up now, a node's why it is
/// not. "degraded": whether the plan does without a node, which then has "out": {"since", "for_s", "why", "drained"}.
/// "move": {"why", "error"}, while nodes load for another plan, or where they could not. "predicted": as PredictedJson, or
/// {"error"}. "links": [{"a", "b", "rtt_us", "mbs"}], those that were measured. plan: of the last attempt; nullptr where none was made so far.
std::string ClusterStatusJson(RemoteCluster& cluster, const PipelineEngine& engine, const Plan* plan,
                              const OpenedModel& model, const PlannedNodes& planned);

}  // namespace shoal
