// What a coordinator knows of its cluster: facts gathered from workers before planning, and the JSON of
// /cluster/status.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "app/command.h"
#include "base/clock.h"
#include "cluster/remote_cluster.h"
#include "exec/pipeline_engine.h"

namespace shoal {

/// Fills in what the placement does not say of this machine, its first node. `memory` as of --memory, may be
/// empty.
absl::Status DescribeThisNode(Placement& placement, const ComputeFlags& compute, const std::string& memory);

/// Asks every worker what it is, trying again until `deadline`, and fills in what the placement does not say:
/// name, memory, compute (threads), device. Unavailable names the worker that did not answer.
absl::Status AskWorkers(Placement& placement, const std::optional<KeyAuth>& key, Deadline deadline);

/// {"status", "error", "epoch", "model": {...}, "cache": {...}, "nodes": [{"name", "state", "layers",
/// "experts", ...}], ...}
std::string ClusterStatusJson(RemoteCluster& cluster, const PipelineEngine& engine, const OpenedModel& model,
                              const std::vector<NodeFacts>& facts);

}  // namespace shoal
