// A request for a plan, without some of the nodes that it was made for. Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "plan/facts.h"
#include "plan/planner.h"

namespace shoal {

/// What becomes of a request that names the parts of nodes which are left out.
enum class ReplanAs : uint8_t {
  kAsked,     ///< It can't be applied without them.
  kBalanced,  ///< Layers are balanced, experts go round robin.
};

struct RemainingNodes {
  std::vector<NodeFacts> nodes;
  PlanRequest request;
};

/// The nodes that are not `out` (one entry per node), and the request as it is for them: shares of the others keep their
/// proportions, experts "over N nodes" go over as many as are left. FailedPrecondition, which names the node and its part,
/// where a split gives a node that is out layers, shares are all of such nodes, only such nodes list an expert, or one is to
/// hold segments; with kBalanced that part of the request is replaced.
absl::StatusOr<RemainingNodes> WithoutNodes(const std::vector<NodeFacts>& nodes, const PlanRequest& request,
                                            const std::vector<bool>& out, ReplanAs as);

}  // namespace shoal
