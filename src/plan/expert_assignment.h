// Divides the experts of one layer among nodes, by how often they were used and by which were used together. Pure and
// deterministic. Private to plan/, but for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/expert_stats.h"

namespace shoal {

/// One layer's experts, all of the same size, and the nodes that may hold them.
struct AssignmentProblem {
  struct Node {
    double rate = 1;   ///< > 0: how fast it computes experts, relative to the others.
    int32_t room = 0;  ///< Experts of this layer that it has memory for. Enough for all, over all nodes.
    bool runs_layer = false;  ///< Rows of its experts stay on it. One node at most.
  };
  const LayerUse* use = nullptr;
  std::vector<Node> nodes;
};

/// [E] -> index of the node that owns the expert.
using Assignment = std::vector<int32_t>;

/// What an expert counts for a node that holds it: its rows, and a hundredth of what an expert has on average, as one that
/// was never used may be used tomorrow.
std::vector<double> ExpertLoads(const LayerUse& use);

/// The largest load / rate of a node.
double Makespan(const AssignmentProblem& problem, const Assignment& owners);

/// Messages to other nodes for the sampled rows, each row by itself: one for each node but that of the layer that owns
/// any of its experts.
int64_t SampledMessages(const AssignmentProblem& problem, const Assignment& owners);

/// Within the room of every node: the longest processing time first on the node that would be done first (Graham 1969,
/// doi 10.1137/0117039), then moves and swaps that relieve the busiest node, as long as there are any. Never a larger
/// makespan than `start`, which is within the room.
Assignment BalanceLoads(const AssignmentProblem& problem, const Assignment& start);

/// Within the room of every node: as few messages as moves and swaps find from three beginnings: `start`, `balanced`
/// (BalanceLoads) and groups that grow by how often experts were used together, the layer's node first. The makespan is
/// at most kGroupSlack times that of `balanced`, or that of `start`. Never more messages than `start`.
Assignment GroupByUse(const AssignmentProblem& problem, const Assignment& start, const Assignment& balanced);

/// Fewer messages are worth a tenth more work on the busiest node.
inline constexpr double kGroupSlack = 1.1;

}  // namespace shoal
