// What a coordinator knows of its cluster: facts gathered from members before planning, and the JSON of
// /cluster/status.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "app/command.h"
#include "cluster/remote_cluster.h"
#include "exec/pipeline_engine.h"

namespace shoal {

/// Fills in what the placement does not say of this machine, its first node. `memory` as of --memory, may be
/// empty.
absl::Status DescribeThisNode(Placement& placement, const ComputeFlags& compute, const std::string& memory);

/// Fills in what a declaration leaves open with what the members say of themselves; names are theirs. Both in
/// the same order; one that has said nothing stays as it is declared.
void ApplyFacts(const std::vector<MemberStatus>& members, std::vector<NodeFacts>& nodes);

/// {"status", "error", "generation", "model": {...}, "cache": {...}, "nodes": [{"name", "state", "error",
/// "layers", "experts", ...}], "plan": [...]}. "error" is why the cluster is not up now, a node's why it is
/// not. plan: of the last attempt; nullptr where none was made so far.
std::string ClusterStatusJson(RemoteCluster& cluster, const PipelineEngine& engine, const Plan* plan,
                              const OpenedModel& model, const std::vector<NodeFacts>& facts);

}  // namespace shoal
